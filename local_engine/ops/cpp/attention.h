// Attention, rotation and the router's choice. Included once for each instruction set, see cpu.cpp.

"""gpt-oss's operations as Triton kernels, for one NVIDIA GPU."""

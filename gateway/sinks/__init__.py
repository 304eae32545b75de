"""Where what was asked and answered may be told of: the content log, traces, and the process's own log."""

"""Nothing that a caller or a model said is found where it may not be kept."""

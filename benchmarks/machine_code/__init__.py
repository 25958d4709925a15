"""What the kernels' machine code says of their speed, on a machine without a GPU."""

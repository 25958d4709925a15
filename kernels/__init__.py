"""Triton kernels, one file per op; installed as ``fairtat.kernels``."""

"""The graph engine: see `engine`."""

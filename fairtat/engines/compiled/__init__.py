"""The compiled engine: see `engine`."""

"""What is shown while `train` and `evaluate` work, on a terminal and in a log."""

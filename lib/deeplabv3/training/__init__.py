"""Training: the loop, one step, the log."""

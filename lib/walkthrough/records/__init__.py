"""Records of runs and evaluations."""

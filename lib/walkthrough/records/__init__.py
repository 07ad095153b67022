"""Records of runs and evaluations: writing, naming, reading, comparing, deleting. Nothing here trains."""

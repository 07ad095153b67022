"""Tables and verdicts: the paper's numbers beside the measured ones. Records are read; nothing is run."""

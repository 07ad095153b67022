"""Execution, cleaning and pages of the notebooks."""

"""Execution, cleaning and book of the notebooks."""

"""Figures of the notebooks: arrays in, figure out."""

"""Evaluation and prediction on whole images."""

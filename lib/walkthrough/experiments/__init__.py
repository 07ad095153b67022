"""Training and evaluation of everything that tables lack."""

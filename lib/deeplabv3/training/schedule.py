"""Learning rate schedules (Section 4.1)."""


def poly(step: int, iterations: int, power: float = 0.9) -> float:
    """The factor ``(1 - step / iterations) ** power`` on the learning rate: 1 at step 0, 0 at ``iterations``."""
    return (1 - step / iterations) ** power


def ramp(step: int, hold: int, length: int) -> float:
    """0 for ``hold`` steps, then linearly up to 1 over the next ``length``: lets a new head settle first.

    Not in the paper, whose runs are long; short runs from pretrained weights want it.
    """
    if step < hold:
        return 0.0
    return min(1.0, (step - hold + 1) / (length + 1))

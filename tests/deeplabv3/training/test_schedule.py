"""Learning rate schedules against values worked out by hand."""

import pytest

from deeplabv3.training.step import linear_warmup, poly


@pytest.mark.parametrize(
    ("step", "iterations", "power", "expected"),
    [
        (0, 30_000, 0.9, 1.0),
        (15_000, 30_000, 0.9, 0.535887),  # 0.5 ** 0.9
        (29_999, 30_000, 0.9, 9.3459e-05),  # (1 / 30000) ** 0.9
        (30_000, 30_000, 0.9, 0.0),
        (1, 4, 1.0, 0.75),
        (1, 4, 2.0, 0.5625),
    ],
)
def test_poly(step, iterations, power, expected):
    assert poly(step, iterations, power) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("hold", "length", "expected"),
    [(0, 0, [1, 1, 1, 1]), (2, 0, [0, 0, 1, 1]), (0, 3, [0.25, 0.5, 0.75, 1]), (1, 1, [0, 0.5, 1, 1])],
)
def test_ramp(hold, length, expected):
    assert [linear_warmup(step, hold, length) for step in range(4)] == pytest.approx(expected)

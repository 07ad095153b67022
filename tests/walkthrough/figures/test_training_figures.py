"""Figures of training runs."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from walkthrough.figures.training import training_log


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_runs_follow_one_another():
    runs = {"first": {"loss": np.arange(1.0, 7), "lr": np.ones(6)}, "then": {"loss": [4.0] * 4, "lr": [2.0] * 4}}
    losses, rates = training_log(runs, window=3).axes
    single, mean, _, other = (np.column_stack(line.get_data()).tolist() for line in losses.lines)
    assert single == [[step, step + 1] for step in range(6)]
    assert np.allclose(mean, [[2, 2], [3, 3], [4, 4], [5, 5]])  # the mean of a step and the two before it
    assert np.allclose(other, [[8, 4], [9, 4]])
    assert [line.get_xdata().tolist() for line in rates.lines] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["first", "then"]
    assert losses.get_yscale() == "log" and "log axis" in losses.get_ylabel()

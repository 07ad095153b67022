"""Drawings of networks: what the rows say is what is drawn."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from deeplabv3 import diagrams


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_a_box_is_as_high_as_its_features_are_wide():
    figure = diagrams.networks({"a": [("stem", 4, ""), ("block1", 16, "2")]})
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([1.0, 0.5])
    assert {text.get_text() for text in figure.axes[0].texts} == {"stem", "block1", "stride 4", "stride 16", "rate 2"}

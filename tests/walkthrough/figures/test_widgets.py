"""The same cell with controls and without."""

import matplotlib

matplotlib.use("Agg")

import ipywidgets
import matplotlib.pyplot as plt
import pytest
from conftest import give_own_ports
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from deeplabv3.errors import UserError
from walkthrough.figures import widgets

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def nobody_there(monkeypatch):
    """These tests may be run from a notebook themselves."""
    for name in (widgets.SWITCH, "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    plt.close("all")


def recorder():
    """A drawing function, and the list of the arguments of its calls."""
    calls = []

    def draw(rate=2, rates=(1, 2, 4), title="not offered"):
        calls.append((rate, rates))
        return plt.figure()

    return draw, calls


def test_live_follows_jupyter_server_and_environment_variable(monkeypatch):
    assert not widgets.live()
    monkeypatch.setenv("JPY_SESSION_NAME", "01.ipynb")
    assert widgets.live()
    monkeypatch.setenv(widgets.SWITCH, "0")
    assert not widgets.live()
    monkeypatch.delenv("JPY_SESSION_NAME")
    monkeypatch.setenv(widgets.SWITCH, "1")
    assert widgets.live()
    monkeypatch.setenv(widgets.SWITCH, "yes")
    with pytest.raises(UserError, match="DEEPLABV3_WIDGETS is 'yes'"):
        widgets.live()


def test_missing_ipywidgets_means_not_live(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "01.ipynb")
    monkeypatch.setattr(widgets, "find_spec", lambda name: None)
    assert not widgets.live()


def test_static_figure_uses_defaults_and_stays_open():
    draw, calls = recorder()
    assert widgets.interactive(draw, rate=(1, 2, 3), rates=[(1, 2, 4), (2, 2, 2)]) is None
    assert calls == [(2, (1, 2, 4))]
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("choices", [{"rate": (1, 3)}, {"stride": (1, 2)}])
def test_control_without_default_raises_value_error(choices):
    draw, calls = recorder()
    with pytest.raises(ValueError, match="default is one of"):
        widgets.interactive(draw, **choices)
    assert calls == []


def test_moving_control_redraws(monkeypatch):
    controls, make = {}, widgets._control
    monkeypatch.setattr(widgets, "_control", lambda name, *rest: controls.setdefault(name, make(name, *rest)))
    monkeypatch.setenv(widgets.SWITCH, "1")
    draw, calls = recorder()
    widgets.interactive(draw, rate=range(1, 9), rates=[(1, 2, 4), (2, 2, 2)])
    assert isinstance(controls["rate"], ipywidgets.SelectionSlider)
    assert isinstance(controls["rates"], ipywidgets.ToggleButtons)
    assert {control.layout.max_width for control in controls.values()} == {"100%"}, "a narrow page cuts nothing off"
    assert calls == [(2, (1, 2, 4))]
    controls["rate"].value = 7
    controls["rates"].value = (2, 2, 2)
    assert calls[1:] == [(7, (1, 2, 4)), (7, (2, 2, 2))]
    assert not plt.get_fignums()


CELL = """
import matplotlib.pyplot as plt
from walkthrough.figures.widgets import interactive

def draw(rate=2):
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.set_title(f"rate {rate}")
    return figure

interactive(draw, rate=range(1, 9))
"""


@pytest.fixture
def run_cell(monkeypatch):
    """``run_cell(**environment)`` executes ``CELL`` in a kernel of its own: (client, what the kernel published)."""
    kernels = []
    give_own_ports(monkeypatch)

    def run(**environment):
        for name, value in {"MPLBACKEND": "module://matplotlib_inline.backend_inline", **environment}.items():
            monkeypatch.setenv(name, value)
        manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        manager.start_kernel(extra_arguments=["--log-level=50"])
        client = manager.blocking_client()
        kernels.append((manager, client))
        client.start_channels()
        client.wait_for_ready(timeout=300)
        published = []
        reply = client.execute_interactive(CELL, output_hook=published.append, timeout=300)
        assert reply["content"]["status"] == "ok", reply["content"]
        return client, published

    yield run
    for manager, client in kernels:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def images(messages, kind="display_data"):
    return [message["content"]["data"] for message in messages if message["msg_type"] == kind]


def test_batch_kernel_publishes_one_image_no_widget(run_cell):
    _, published = run_cell()
    (data,) = images(published)
    assert "image/png" in data and VIEW not in data
    assert not any(message["msg_type"] == "comm_open" for message in published)


def test_figure_of_controls_is_an_output_of_its_own(run_cell):
    """JupyterLab shows no image in place of a widget whose kernel is gone."""
    client, published = run_cell(JPY_SESSION_NAME="/notebooks/01.ipynb")
    controls, figure = images(published)
    assert VIEW in controls and VIEW not in figure and figure["image/png"].startswith("iVBOR")

    # What a front end sends when the slider is moved to its seventh value.
    opened = [message["content"] for message in published if message["msg_type"] == "comm_open"]
    (slider,) = (comm for comm in opened if comm["data"]["state"]["_model_name"] == "SelectionSliderModel")
    update = {"method": "update", "state": {"index": 6}, "buffer_paths": []}
    client.session.send(client.shell_channel.socket, "comm_msg", {"comm_id": slider["comm_id"], "data": update})
    answers = []
    while not images(answers, "update_display_data"):
        answers.append(client.get_iopub_msg(timeout=300))
    assert images(answers, "update_display_data")[0]["image/png"] != figure["image/png"]
    assert not images(answers), "the figure is replaced, not repeated"

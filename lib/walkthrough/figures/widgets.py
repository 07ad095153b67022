"""Controls (ipywidgets) in a live notebook, one static figure everywhere else, from the same cell."""

import inspect
import io
import os
from base64 import b64encode
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from deeplabv3.errors import UserError

SWITCH = "DEEPLABV3_WIDGETS"


def live() -> bool:
    """Return True where a reader can move a control.

    That is a kernel that a Jupyter server started for a notebook (JupyterLab, Notebook), with ipywidgets installed; it
    is not papermill, nbval, nbconvert or plain Python. The environment variable ``DEEPLABV3_WIDGETS`` overrides this: 1
    is yes (for other front ends that show widgets, such as VS Code), 0 is no; another value is a :class:`UserError`.
    """
    chosen = os.environ.get(SWITCH, "")
    if chosen not in ("", "0", "1"):
        raise UserError(f"{SWITCH} is {chosen!r}; set it to 1 (widgets), to 0 (static figures), or not at all.")
    if chosen:
        return chosen == "1"
    # The server sets JPY_SESSION_NAME, the notebook's path, for the kernels that it starts.
    return "JPY_SESSION_NAME" in os.environ and find_spec("ipywidgets") is not None


def interactive(draw: Callable[..., Figure], **choices: Iterable[Any]) -> None:
    """Show the figure of ``draw()`` and, in a live notebook (:func:`live`), a control for each of ``choices``.

    ``choices`` maps a parameter of ``draw`` to the values that its control offers, its default among them (else
    ``ValueError``). Moving a control draws again.
    """
    offered = {name: list(values) for name, values in choices.items()}
    defaults = {name: parameter.default for name, parameter in inspect.signature(draw).parameters.items()}
    for name, values in offered.items():
        if defaults.get(name, inspect.Parameter.empty) not in values:
            raise ValueError(f"{draw.__name__} needs a parameter {name} whose default is one of {values}")
    if live():
        _show_controls(draw, offered, defaults)
    else:
        draw()  # stays open: the notebook's backend shows it at the end of the cell


def _show_controls(draw: Callable[..., Figure], offered: dict[str, list], defaults: dict[str, Any]) -> None:
    """Show controls, and below them the figure as an output of its own: a saved notebook has it without its kernel."""
    import ipywidgets
    from IPython.display import DisplayHandle, display

    controls = {name: _control(name, values, defaults[name]) for name, values in offered.items()}
    display(ipywidgets.VBox([*controls.values()]))
    shown = DisplayHandle()
    shown.display({"image/png": _png(draw())}, raw=True)

    def redraw(_: Any) -> None:
        chosen = {name: control.value for name, control in controls.items()}
        shown.update({"image/png": _png(draw(**chosen))}, raw=True)

    for control in controls.values():
        control.observe(redraw, names="value")


def _control(name: str, values: list, default: Any) -> Any:
    """A slider for many numbers, buttons for a few values or for anything else."""
    import ipywidgets

    many_numbers = len(values) > 6 and all(isinstance(value, int | float) for value in values)
    kind = ipywidgets.SelectionSlider if many_numbers else ipywidgets.ToggleButtons
    control = kind(
        options=[(str(value), value) for value in values],
        value=default,
        description=name.replace("_", " "),
        layout={"width": "34em" if many_numbers else "auto", "max_width": "100%"},
    )
    control.style.description_width = "initial"
    if not many_numbers:
        control.style.button_width = "auto"
    return control


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)  # else the notebook's backend shows it a second time
    return b64encode(file.getvalue()).decode()

"""Cleaned notebooks keep outputs and lose traces of the machine."""

import base64
import io

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from walkthrough.notebooks.clean import clean


def figure():
    """A gray PNG in base64, as a kernel sends it."""
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (200, 200, 200, 255)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_clean_keeps_outputs_and_drops_noise():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    outputs = [
        new_output("stream", name="stdout", text="a"),
        new_output("stream", name="stderr", text="bar"),
        new_output("stream", name="stdout", text="b"),
        new_output("display_data", data={**widget, "text/plain": "HBox()"}),
        new_output("display_data", data={**widget, "text/plain": "Figure", "image/png": figure()}),
        new_output("execute_result", data={"text/plain": "3"}, execution_count=9),
    ]
    timing = {"papermill": {"duration": 1}, "execution": {"iopub.status.idle": "now"}}
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Text", metadata={"tags": [], "papermill": {}}),
            new_code_cell("profile = None", execution_count=4, metadata={"tags": ["parameters"], **timing}),
            new_code_cell("profile = 'voc'", execution_count=5, metadata={"tags": ["injected-parameters"]}),
            new_code_cell(
                "show()", execution_count=9, outputs=outputs, metadata={"tags": [], "collapsed": True, **timing}
            ),
            new_code_cell("not executed"),
        ],
        metadata={
            "papermill": {},
            "widgets": {},
            "title": "Kept",
            "language_info": {"name": "python", "version": "3.11"},
        },
    )
    before = nbformat.writes(notebook)
    cleaned = clean(notebook)
    nbformat.validate(cleaned)
    assert nbformat.writes(notebook) == before
    assert nbformat.writes(clean(cleaned)) == nbformat.writes(cleaned)
    assert cleaned.metadata == {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
        "title": "Kept",
    }
    assert [cell.id for cell in cleaned.cells] == [notebook.cells[n].id for n in (0, 1, 3, 4)]
    assert [cell.metadata for cell in cleaned.cells] == [{}, {"tags": ["parameters"]}, {"collapsed": True}, {}]
    assert [cell.execution_count for cell in cleaned.cells[1:]] == [1, 2, None]
    stream, image, result = cleaned.cells[2].outputs
    small = Image.open(io.BytesIO(base64.b64decode(image.data["image/png"])))
    assert small.mode == "P" and np.abs(np.asarray(small.convert("RGB")).astype(int) - 200).max() < 5
    assert stream.text == "ab" and set(image.data) == {"text/plain", "image/png"} and result.execution_count == 2

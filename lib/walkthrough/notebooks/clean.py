"""Clean executed notebooks of progress bars, timings and other traces of the machine."""

import base64
import copy
import io

import numpy as np
from nbformat import NotebookNode
from PIL import Image

WIDGET = "application/vnd.jupyter.widget-view+json"
LARGE_AREAS = 64  # so many colors at most
ADDED_CELLS = {"injected-parameters", "papermill-error-cell-tag"}


def clean(notebook: NotebookNode) -> NotebookNode:
    """Return a copy with sources, outputs and execution counts from 1 on.

    It lacks progress bars (stderr), widgets, timings, papermill's metadata and the cells that papermill added. Figures
    get a palette.
    """
    notebook = copy.deepcopy(notebook)
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata.language_info = {"name": "python"}
    notebook.cells = [cell for cell in notebook.cells if not ADDED_CELLS.intersection(cell.metadata.get("tags", []))]
    count = 0
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]  # papermill gives every cell a list
        if cell.cell_type != "code":
            continue
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        cell.outputs = _clean_outputs(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return notebook


def _clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        data = output.get("data", {})
        only_widget = data.pop(WIDGET, None) is not None and set(data) <= {"text/plain"}
        if only_widget or (output.output_type == "stream" and output.name == "stderr"):
            continue
        if "image/png" in data:
            data["image/png"] = _with_palette(data["image/png"])
        if kept and kept[-1].output_type == output.output_type == "stream":
            kept[-1].text += output.text  # where a text is cut into pieces depends on timing
        else:
            kept.append(output)
    return kept


def _with_palette(png: str) -> str:
    """A figure, a PNG in base64, in 256 colors: four tenths of the size, with hardly a visible difference.

    Colors of large areas, such as those of a legend, stay as they are.
    """
    opened = Image.open(io.BytesIO(base64.b64decode(png)))
    if opened.mode == "P":
        return png
    image = opened.convert("RGB")
    colors = np.asarray(image, dtype=np.int64) @ (1 << 16, 1 << 8, 1)  # (H, W), each color as one number
    known, counts = np.unique(colors, return_counts=True)
    flat = np.sort(known[np.argsort(counts)[-LARGE_AREAS:]])
    flat = flat[np.isin(flat, known[5000 * counts >= colors.size])]
    others = image.quantize(256 - len(flat), dither=Image.Dither.NONE)
    indices = np.array(others)  # (H, W) uint8
    large = np.isin(colors, flat)
    indices[large] = 256 - len(flat) + np.searchsorted(flat, colors[large])
    table = np.zeros((256, 3), dtype=np.uint8)
    first = np.array(others.getpalette(), dtype=np.uint8).reshape(-1, 3)[: 256 - len(flat)]
    table[: len(first)] = first
    table[256 - len(flat) :] = flat[:, None] // (1 << 16, 1 << 8, 1) % 256
    reduced = Image.fromarray(indices)
    reduced.putpalette(table.tobytes())  # which makes it an image with a palette
    buffer = io.BytesIO()
    reduced.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()

"""Blocks that :mod:`fill` writes without the records of runs: benchmarks, settings, and README's image."""

import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from deeplabv3 import config
from deeplabv3.config import EvaluationConfig
from deeplabv3.data.reading import read_image
from deeplabv3.data.transforms import normalize
from deeplabv3.evaluation.predict import predict_photo
from deeplabv3.model import pretrained
from walkthrough.figures.photographs import ANIMAL_COLORS, photographs
from walkthrough.profiles import ModelSection, Profile
from walkthrough.report.render import markdown_rows

HOME = Path(__file__).resolve().parents[1]
PICTURE = HOME / "docs" / "output_stride.png"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    return markdown_rows(pd.DataFrame([[str(value) for value in row] for row in rows], columns=list(header)))


def count(number: int, noun: str) -> str:
    """A number with its noun, such as ``2 cores``."""
    return f"{number} {noun}{'s' if number > 1 else ''}"


# --- docs/benchmarks.md


def bench(name: str) -> dict:
    """The measurements of ``data/records/bench/NAME.json``."""
    return json.loads((HOME / "data" / "records" / "bench" / f"{name}.json").read_text())


def bench_model() -> str:
    """Forward and training times relative to torchvision's."""
    values = bench("model-resnet50-cpu")
    rows = []
    for part, what in (("forward", "forward"), ("training", "forward and backward, batch 2")):
        for row in values[part]:
            rows.append([what, row["name"], f"{row['median']:.2f}", f"{row['ratio']:.2f}"])
    return table(["", "variant", "seconds", "relative"], rows)


def bench_train() -> str:
    """Time of a training step, option by option."""
    rows = bench("train-resnet101-cpu")["rows"]
    return table(
        ["a training step", "ms", "speed"],
        ([row["name"], f"{1000 * row['seconds_per_step']:.0f}", f"{row['speed']:.2f}"] for row in rows),
    )


def bench_evaluate() -> str:
    """Images a second of both evaluation loops."""
    rows = []
    for name, what in (("mobilenet_v2", "MobileNetV2"), ("resnet50", "ResNet-50")):
        values = bench(f"evaluate-{name}-cpu")
        setting = f"{what}, output stride {values['settings']['output_stride']}, {values['images']} images"
        for row in values["rows"]:
            differing = "" if row["differing_pixels"] is None else f"{row['differing_pixels']} of {values['pixels']:,}"
            rows.append([setting, row["name"], f"{row['images_per_second']:.2f}", f"{row['speed']:.2f}", differing])
    return table(["", "loop", "images a second", "speed", "pixels that differ"], rows)


def bench_pipeline() -> str:
    """Core time of a crop, by where its image comes from."""
    values = bench("pipeline-cpu")
    size = values["decoded_bytes"] / values["images"] / 1e6
    rows = [
        [
            "decoded in memory" if row["source"] == "memory" else "read from files",
            "through a data worker" if row["workers"] else "in the training process",
            f"{1000 * row['core_seconds_per_crop']:.2f}",
            f"{row['cores_needed']:.1f}",
        ]
        for row in values["rows"]
    ]
    header = ["images", "crops are cut", "a core's ms for a crop", "cores for 1.3 times that GPU"]
    return f"{table(header, rows)}\n\nDecoded, an image takes {size:.2f} MB."


# --- docs/own-data.md


def finetuning() -> str:
    """mIoU on two data sets by settings, each with its difference from the first of as many steps."""
    rows = []
    for row in bench("finetune")["rows"]:
        found = []
        for name in ("camvid", "animals"):
            low, high = row[name].get("interval", (None, None))
            gain = "" if low is None else f" ({row[name]['difference']:+.1f}; {low:+.1f} to {high:+.1f})"
            found.append(f"{row[name]['miou']:.1f}{gain}")
        rows.append([row["settings"], row["steps"], *found])
    return table(["settings", "steps", "CamVid", "animals"], rows)


# --- docs/settings.md

SECTIONS = {
    "The profile itself": Profile,
    "data": config.DataConfig,
    "model": ModelSection,
    "training": config.TrainingConfig,
    "evaluation": config.EvaluationConfig,
    "runtime": config.RuntimeConfig,
    "ModelConfig": config.ModelConfig,
}


def settings() -> str:
    """Every setting with its default and the comment at its definition."""
    network = {name: text for name, _, text in fields_of(config.ModelConfig)}
    parts = []
    for section, kind in SECTIONS.items():
        python = kind is config.ModelConfig
        found = [row for row in fields_of(kind) if row[0] not in SECTIONS]
        rows = [
            [f"`{name}`", _default(value, python), text or ("" if python else network.get(name, ""))]
            for name, value, text in found
        ]
        parts.append(f"## {section}\n\n{table(['setting', 'default', 'what it is'], rows)}")
    return "\n\n".join(parts)


def fields_of(kind: type) -> list[tuple[str, object, str]]:
    """Name, default (MISSING where there is none) and comment of a dataclass's fields, from its source."""
    defaults = {item.name: item.default for item in fields(kind)}
    defaults |= {item.name: {} for item in fields(kind) if item.default_factory is not MISSING}
    above, rows = "", []
    for line in inspect.getsource(kind).splitlines():
        code, _, comment = line.strip().partition("# ")
        if name := re.match(r"(\w+): ", code):
            rows.append((name[1], defaults[name[1]], comment))
        if name and above:
            rows[-1] = (*rows[-1][:2], f"{comment}. {above}".removeprefix(". "))
        above = f"{above} {comment}".strip() if comment and not code else ""
        if line.strip().startswith("def "):
            break
    return [(name, default, _with_values(text)) for name, default, text in rows]


def _with_values(text: str) -> str:
    """A comment with the values of the constants that it names."""

    def value(found: re.Match) -> str:
        known = getattr(config, found[0], None)
        return ", ".join(map(str, known)) if isinstance(known, tuple) else found[0]

    return re.sub(r"\b[A-Z][A-Z_]+\b", value, text).replace("``", "`").replace("|", "\\|")


def _default(value: object, python: bool) -> str:
    """A default as YAML or as Python."""
    return "needed" if value is MISSING else f"`{value!r}`" if python else f"`{json.dumps(value)}`"


# --- the image


def picture() -> None:
    """A photograph, its segmentation, and the answer of each feature at output stride 8, 16 and 32."""
    model, names = pretrained.load_pretrained()
    photo = read_image(HOME / "data" / "photographs" / "chelsea.jpg")
    height, width = ((side - 1) // 32 * 32 + 1 for side in photo.shape[:2])  # features at both ends
    photo = photo[:height, :width]  # (H, W, 3)
    panels = [
        ("photograph", photo, None),
        ("segmentation", photo, predict_photo(model, photo, EvaluationConfig(8, padding="tight"))),
    ]
    for stride in (8, 16, 32):
        with torch.no_grad():
            logits = model.set_output_stride(stride).features_to_logits(normalize(torch.tensor(photo)[None]))
        classes = logits[0].argmax(0).numpy()  # (h, w)
        y, x = ((np.arange(side) + stride // 2) // stride for side in (height, width))
        panels.append((f"output stride {stride}", photo, classes[y][:, x]))
    figure = photographs([panels], ANIMAL_COLORS, list(names.values()), text=8)
    figure.savefig(PICTURE, dpi=130, metadata={"Comment": pretrained.SHA256})


def picture_is_current() -> bool:
    """True if the image was drawn by the network that comes with the library."""
    if not PICTURE.is_file():
        return False
    with Image.open(PICTURE) as image:
        return image.info.get("Comment") == pretrained.SHA256

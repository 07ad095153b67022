"""The paper's tables as data: the keys of each cell, the paper's value, and the settings that a cell changes.

The values lie in ``data/paper/table_NN.csv``: the columns that a table varies, then ``miou`` in percent and
``source_quality`` (A: read in two or more transcriptions of the paper, B: one, tied down by the prose or by arithmetic,
C: one only). Table 14 is not the paper's: it puts DeepLabv2, of which Section 4.3 says one number, beside DeepLabv3;
where the paper prints nothing, ``miou`` is empty.
"""

import csv
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from deeplabv3.config import MULTI_SCALE
from deeplabv3.errors import UserError
from walkthrough import paths

COCO, CITYSCAPES = "coco", "cityscapes"
"""Data that cells may need besides VOC's: a network trained on COCO to start from, or Cityscapes' images."""

CITYSCAPES_SCALES = (0.75, 1.0, 1.25)
"""Scales of multi-scale inference on Cityscapes (Appendix C)."""


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    keys: dict[str, str]  # as printed, such as {"output_stride": "8"}
    miou: float  # the paper's, in percent; NaN where it prints none
    source_quality: str  # A, B or C; empty without a value
    variant: dict[str, Any] | None = None  # settings of the network; None: shown and not run, its data are not at hand
    training: dict[str, Any] = field(default_factory=dict)  # changed settings, crop and batch as the paper states them
    evaluation: dict[str, Any] = field(default_factory=dict)  # changed settings; output stride: that of the training
    needs: str = ""  # data besides VOC's: COCO or CITYSCAPES


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    section: str  # that speaks of it
    settings: Callable[[dict[str, str]], dict[str, Any]]  # of a cell with these keys
    cells: tuple[Cell, ...] = ()
    across: str = ""  # key whose values are the columns, as the paper prints it; empty: every cell is a row
    measure: str = "mIoU on VOC 2012 val"  # the paper's numbers
    remark: str = ""  # what its numbers need to be read rightly

    def cell(self, **keys: str) -> Cell:
        """The first cell with these keys, for instance ``load(1).cell(output_stride="8")``."""
        for cell in self.cells:
            if keys.items() <= cell.keys.items():
                return cell
        raise UserError(f"table {self.number} has no cell with {keys}; keys are such as {self.cells[0].keys}.")


def _tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()").split(","))


def _output_stride(keys: dict[str, str]) -> dict[str, Any]:
    # The paper does not say at which output stride the entries were trained; here each is trained at its own.
    return {"variant": _cascade("resnet50", 7) | {"output_stride": int(keys["output_stride"])}}


def _depth(keys: dict[str, str]) -> dict[str, Any]:
    backbone = keys["network"].lower().replace("-", "")
    return {"variant": _cascade(backbone, _block(keys))}


def _grid(keys: dict[str, str]) -> dict[str, Any]:
    return {"variant": _cascade("resnet101", _block(keys), _tuple(keys["multi_grid"]))}


def _block(keys: dict[str, str]) -> int:
    return int(keys["last_block"].removeprefix("block"))


def _cascade(backbone: str, last_block: int, grid: tuple[int, ...] = (1, 1, 1)) -> dict[str, Any]:
    return {"backbone": backbone, "head": "cascade", "last_block": last_block, "multi_grid": grid}


_BEST = {
    "backbone": "resnet101",
    "head": "aspp",
    "multi_grid": (1, 2, 4),
    "atrous_rates": (6, 12, 18),
    "image_pooling": True,
}
"""Table 5's last row, 77.21. The appendix varies how it is trained."""


def _aspp(keys: dict[str, str]) -> dict[str, Any]:
    changes = {
        "multi_grid": _tuple(keys["multi_grid"]),
        "atrous_rates": _tuple(keys["rates"]),
        "image_pooling": keys["image_pooling"] == "yes",
    }
    return {"variant": _BEST | changes}


def _strategy(keys: dict[str, str], multi_scale: tuple[float, ...] = MULTI_SCALE) -> dict[str, Any]:
    """Evaluation settings of a row of Tables 4, 6 and 12."""
    return {
        "output_stride": int(keys["output_stride"]),
        "scales": multi_scale if keys["multi_scale"] == "yes" else (1.0,),
        "flip": keys["flip"] == "yes",
    }


def _cascade_inference(keys: dict[str, str]) -> dict[str, Any]:
    return {"variant": _cascade("resnet101", 7, (1, 2, 1)), "evaluation": _strategy(keys)}


def _aspp_inference(keys: dict[str, str]) -> dict[str, Any]:
    # After COCO the learning rate is smaller.
    coco = {"training": {"lr": 0.0001}, "needs": COCO} if keys["coco"] == "yes" else {}
    return {"variant": _BEST, "evaluation": _strategy(keys), **coco}


def _cityscapes(keys: dict[str, str]) -> dict[str, Any]:
    return {"variant": _BEST, "evaluation": _strategy(keys, CITYSCAPES_SCALES), "needs": CITYSCAPES}


def _protocol(keys: dict[str, str]) -> dict[str, Any]:
    training = {
        "crop_size": int(keys["crop"]),
        "upsample_logits": keys["upsample_logits"] == "yes",
        "freeze_batch_norm": keys["fine_tune_batch_norm"] == "no",
    }
    return {"variant": _BEST, "training": training}


def _batch(keys: dict[str, str]) -> dict[str, Any]:
    return {"variant": _BEST, "training": {"batch_size": int(keys["batch"])}}


def _training_stride(keys: dict[str, str]) -> dict[str, Any]:
    variant = _BEST | {"output_stride": int(keys["training_output_stride"])}
    return _batch(keys) | {"variant": variant, "evaluation": {"output_stride": int(keys["output_stride"])}}


_V2 = {"backbone": "resnet101", "head": "v2", "image_pooling": False}

_NETWORKS: dict[str, dict[str, Any]] = {
    # Rates are stated for output stride 16; at 8 these are DeepLabv2's own 6, 12, 18 and 24.
    "DeepLabv2": _V2 | {"output_stride": 8, "multi_grid": (1, 1, 1), "atrous_rates": (3, 6, 9, 12)},
    "DeepLabv2's head": _V2 | {"multi_grid": (1, 2, 4), "atrous_rates": (6, 12, 18, 24)},
    "cascade": _cascade("resnet101", 7, (1, 2, 1)),
    "ASPP": _BEST,
}
"""The networks of Table 14."""

_SCALES = {"1": (1.0,), "3 by maximum": (0.5, 0.75, 1.0), "6": MULTI_SCALE}


def _versions(keys: dict[str, str]) -> dict[str, Any]:
    variant = _NETWORKS[keys["network"]]
    if keys["batch_norm"] == "none in ASPP":
        variant = variant | {"head_batch_norm": False}
    training: dict[str, Any] = {"freeze_batch_norm": True} if keys["batch_norm"] == "frozen" else {}
    if variant["head"] == "v2" or keys["batch_norm"] == "none in ASPP":
        training |= {"lr": 0.001}  # DeepLabv2's; without batch norm a head hardly learns at DeepLabv3's, 0.007
    if keys["network"] == "DeepLabv2":
        training |= {"crop_size": 321, "upsample_logits": False}
    evaluation = {
        "output_stride": int(keys["output_stride"]),
        "scales": _SCALES[keys["scales"]],
        "flip": keys["flip"] == "yes",
    }
    if keys["scales"] == "3 by maximum":
        evaluation["fusion"] = "max"
    return {"variant": variant, "training": training, "evaluation": evaluation}


def _shown(keys: dict[str, str]) -> dict[str, Any]:
    return {}


_TABLES = [
    Table(
        1,
        "Going deeper with atrous convolution: ResNet-50 with block7, by output stride",
        "Section 4.2",
        _output_stride,
        across="output_stride",
    ),
    Table(
        2,
        "ResNet-50 and ResNet-101 with more cascaded blocks, output stride 16",
        "Section 4.2",
        _depth,
        across="last_block",
    ),
    Table(3, "Multi-grid in the cascade, ResNet-101, output stride 16", "Section 4.2", _grid, across="last_block"),
    Table(4, "Inference with the cascade: block7, multi-grid (1,2,1)", "Section 4.2", _cascade_inference),
    Table(
        5,
        "Atrous spatial pyramid pooling with multi-grid and image-level features, output stride 16",
        "Section 4.3",
        _aspp,
    ),
    Table(6, "Inference with ASPP: multi-grid (1,2,4), image pooling", "Section 4.3", _aspp_inference),
    Table(7, "The VOC 2012 test set", "Section 4.3", _shown, measure="mIoU on VOC 2012 test"),
    Table(8, "Training protocol: crop, upsampled logits, fine-tuned batch norm", "Appendix A", _protocol),
    Table(9, "Batch size", "Appendix A", _batch, across="batch"),
    Table(
        10, "Output stride in training, with the batch that fitted, and in evaluation", "Appendix A", _training_stride
    ),
    Table(11, "Asynchronous training on several machines", "Appendix B", _shown),
    Table(12, "Cityscapes, trained on train_fine", "Appendix C", _cityscapes, measure="mIoU on Cityscapes val"),
    Table(13, "The Cityscapes test set", "Appendix C", _shown, measure="mIoU on Cityscapes test"),
    Table(
        14,
        "DeepLabv2 beside DeepLabv3, and batch norm (not a table of the paper)",
        "Section 4.3",
        _versions,
        remark="The paper's 77.69 is DeepLabv2 with DenseCRF and pre-training on COCO; its 79.35 and 79.77 have "
        "neither. DeepLabv2 here: output stride 8, multi-grid (1,1,1), four rates, crop 321, shrunk ground truth, and "
        "the largest logits of three scales; its losses at three scales, its batch of 10 and its 20,000 steps are left "
        "out. DeepLabv2's head: the same four classifiers in DeepLabv3's protocol, multi-grid (1,2,4). Heads without "
        "batch norm are trained with DeepLabv2's learning rate, 0.001 where DeepLabv3's is 0.007.",
    ),
]

NUMBERS = tuple(table.number for table in _TABLES if table.settings not in (_shown, _cityscapes))
"""The tables that are regenerated."""

ALL = tuple(table.number for table in _TABLES)
"""Tables 7, 11 and 13 are shown with the paper's values; 12 is regenerated on Cityscapes alone; 14 is ours."""


def numbers(data: Collection[str]) -> tuple[int, ...]:
    """The tables that are regenerated with ``data``, as of :func:`load`: on Cityscapes Table 12."""
    return (12,) if CITYSCAPES in data else NUMBERS


def load(number: int, data: Collection[str] = ()) -> Table:
    """Table ``number``, 1 to 13 of the paper or 14; another number is a :class:`UserError`.

    Cells that need other data than VOC's and ``data`` are not run.
    """
    if number not in ALL:
        raise UserError(f"there is no table {number}; choose one from 1 to {max(ALL)}.")
    table = _TABLES[number - 1]
    with open(paths.home() / "data" / "paper" / f"table_{number:02d}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = []
    for row in rows:
        miou, source_quality = float(row.pop("miou") or "nan"), row.pop("source_quality")
        cell = Cell(row, miou, source_quality, **table.settings(row))
        is_run = not cell.needs or cell.needs in data
        cells.append(cell if is_run else replace(cell, variant=None, training={}))
    return replace(table, cells=tuple(cells))

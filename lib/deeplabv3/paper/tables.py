"""The paper's tables as data: what each cell varies, the paper's value, and the run and evaluation that fill it.

The values lie in ``data/paper/table_NN.csv``: the columns that a table varies, then ``miou`` in percent and ``trust``
(A: read in two or more transcriptions of the paper, B: one, tied down by the prose or by arithmetic, C: one only).
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from deeplabv3 import paths
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import EvaluationSettings
from deeplabv3.paper.records import Run
from deeplabv3.profiles import Profile


@dataclass(frozen=True)
class Cell:
    """One value of a table: ``keys`` as printed, ``miou`` the paper's value, ``variant`` the network's settings."""

    keys: dict[str, str]
    miou: float
    trust: str
    variant: dict[str, Any]

    def job(self, profile: Profile) -> tuple[Run, EvaluationSettings]:
        """The run and the evaluation that fill the cell under ``profile``."""
        config = profile.model_config(**self.variant)
        return Run.of(profile, config), replace(profile.evaluation, output_stride=config.output_stride)


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    section: str
    cells: tuple[Cell, ...]

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
    return _cascade("resnet50", 7) | {"output_stride": int(keys["output_stride"])}


def _depth(keys: dict[str, str]) -> dict[str, Any]:
    return _cascade(keys["network"].lower().replace("-", ""), int(keys["last_block"].removeprefix("block")))


def _cascade(backbone: str, last_block: int) -> dict[str, Any]:
    return {"backbone": backbone, "head": "cascade", "last_block": last_block, "multi_grid": (1, 1, 1)}


def _aspp(keys: dict[str, str]) -> dict[str, Any]:
    return {
        "backbone": "resnet101",
        "head": "aspp",
        "multi_grid": _tuple(keys["multi_grid"]),
        "atrous_rates": _tuple(keys["rates"]),
        "image_pooling": keys["image_pooling"] == "yes",
    }


_TABLES: dict[int, tuple[str, str, Callable[[dict[str, str]], dict[str, Any]]]] = {
    1: ("Going deeper with atrous convolution: ResNet-50 with block7, by output stride", "4.2", _output_stride),
    2: ("ResNet-50 and ResNet-101 with more cascaded blocks, output stride 16", "4.2", _depth),
    5: ("Atrous spatial pyramid pooling with multi-grid and image-level features, output stride 16", "4.3", _aspp),
}

NUMBERS = tuple(_TABLES)
"""The tables that can be regenerated so far."""


def load(number: int) -> Table:
    """Table ``number`` of the paper; one that is not there yet is a :class:`UserError`."""
    if number not in _TABLES:
        raise UserError(f"table {number} is not among the tables here; choose one of {', '.join(map(str, NUMBERS))}.")
    title, section, variant = _TABLES[number]
    with open(paths.home() / "data" / "paper" / f"table_{number:02d}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = []
    for row in rows:
        miou, trust = float(row.pop("miou")), row.pop("trust")
        cells.append(Cell(row, miou, trust, variant(row)))
    return Table(number, title, section, tuple(cells))


def jobs(table: Table, profile: Profile) -> list[tuple[Run, EvaluationSettings]]:
    """What fills the table under ``profile``, cell by cell; cells may share a run."""
    return [cell.job(profile) for cell in table.cells]

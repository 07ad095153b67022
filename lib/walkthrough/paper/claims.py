"""The paper's ordinal claims as data: each says that some cells of the tables are better than others.

No claim is adjusted to what was measured: each says what the paper says, with the cells that the paper says it of.
Verdicts on them are in :mod:`walkthrough.report.verdicts`.
"""

from dataclasses import dataclass
from itertools import pairwise

from walkthrough.paper import tables
from walkthrough.paper.tables import Cell


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of cells that is said to be above 0; ``(1, a), (-1, b)``: ``a`` is better than ``b``."""

    name: str
    terms: tuple[tuple[float, Cell], ...]

    @property
    def paper(self) -> float:
        """The paper's value in points."""
        return sum(weight * cell.miou for weight, cell in self.terms)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper; it is in our words, in the paper's terms, unless it has quotation marks."""

    name: str
    sentence: str
    section: str  # of the paper
    tables: tuple[int, ...]  # with the cells that are compared
    comparisons: tuple[Comparison, ...]


def load() -> list[Claim]:
    """The claims, in the order of the paper's tables."""
    return [*_output_stride(), *_depth(), *_multi_grid(), *_inference(), *_aspp(), *_protocol(), *_batch_and_stride()]


def _beats(name: str, better: Cell, worse: Cell) -> Comparison:
    return Comparison(name, ((1, better), (-1, worse)))


BLOCKS = ("block4", "block5", "block6", "block7")


def _output_stride() -> list[Claim]:
    """Table 1."""
    cells = {cell.keys["output_stride"]: cell for cell in tables.load(1).cells}

    def finer(a: str, b: str) -> Comparison:
        return _beats(f"output stride {a} over {b}", cells[a], cells[b])

    return [
        Claim(
            "atrous convolution is essential",
            "Without atrous convolution (output stride 256) block7 is much worse than with it (16).",
            "4.2",
            (1,),
            (finer("16", "256"),),
        ),
        Claim(
            "a finer output stride is better",
            "mIoU falls with every doubling of the output stride, from 8 to 256.",
            "4.2",
            (1,),
            tuple(finer(a, b) for a, b in pairwise(cells)),
        ),
    ]


def _depth() -> list[Claim]:
    """Table 2."""
    cells = {tuple(cell.keys.values()): cell for cell in tables.load(2).cells}
    networks = ("ResNet-50", "ResNet-101")

    def deeper(network: str, a: str, b: str) -> Comparison:
        return _beats(f"{network}: {a} over {b}", cells[network, a], cells[network, b])

    def gains(network: str) -> list[Comparison]:
        """The gain of a block, ``b - a``, over that of the next one, ``c - b``."""
        steps = zip(BLOCKS, BLOCKS[1:], BLOCKS[2:], strict=False)
        return [
            Comparison(
                f"{network}: gain of {b} over gain of {c}",
                ((2, cells[network, b]), (-1, cells[network, a]), (-1, cells[network, c])),
            )
            for a, b, c in steps
        ]

    return [
        Claim(
            "more blocks help",
            "Cascaded blocks improve mIoU: block5, block6 and block7 are better than block4 alone.",
            "4.2",
            (2,),
            tuple(deeper(network, block, "block4") for network in networks for block in BLOCKS[1:]),
        ),
        Claim(
            "the gain shrinks block by block",
            "The gain of another block becomes smaller from block5 to block7.",
            "4.2",
            (2,),
            tuple(comparison for network in networks for comparison in gains(network)),
        ),
        Claim(
            "block7 does not help ResNet-50",
            "block7 makes ResNet-50 slightly worse.",
            "4.2",
            (2,),
            (deeper("ResNet-50", "block6", "block7"),),
        ),
        Claim(
            "block7 still helps ResNet-101",
            "block7 improves ResNet-101 over block6.",
            "4.2",
            (2,),
            (deeper("ResNet-101", "block7", "block6"),),
        ),
    ]


def _multi_grid() -> list[Claim]:
    """Table 3."""
    cells = {tuple(cell.keys.values()): cell for cell in tables.load(3).cells}
    grids = ("(1,2,1)", "(1,2,3)", "(1,2,4)")
    best = cells["(1,2,1)", "block7"]

    def over_depths(better: str, worse: str) -> Comparison:
        terms = [(sign / 4, cells[grid, block]) for sign, grid in ((1, better), (-1, worse)) for block in BLOCKS]
        return Comparison(f"{better} over {worse}, mean of block4 to block7", tuple(terms))

    return [
        Claim(
            "multi-grid helps the cascade",
            "Multi-grid is better than (1,1,1), over the four depths of the cascade.",
            "4.2",
            (3,),
            tuple(over_depths(grid, "(1,1,1)") for grid in grids),
        ),
        Claim(
            "doubling the unit rates does not",
            "Simply doubling the unit rates, (2,2,2), is not effective: other grids are better, and none with block7.",
            "4.2",
            (3,),
            (
                *(over_depths(grid, "(2,2,2)") for grid in grids),
                _beats("block7: (1,1,1) over (2,2,2)", cells["(1,1,1)", "block7"], cells["(2,2,2)", "block7"]),
            ),
        ),
        Claim(
            "block7 with (1,2,1) is best",
            "The best cascade has block7 and (1,2,1): better than each of the other nineteen.",
            "4.2",
            (3,),
            tuple(_beats(f"over {grid} {block}", best, cell) for (grid, block), cell in cells.items() if cell != best),
        ),
    ]


def _inference() -> list[Claim]:
    """Tables 4 and 6, whose rows add one strategy after the other."""
    sentences = {
        "output stride 8 at inference adds": "Output stride 8 at inference improves a model trained at 16.",
        "multi-scale inputs add": "Multi-scale inputs at inference improve it further.",
        "flipped inputs add": "Left-right flipped inputs at inference improve it further.",
    }
    networks = {"cascade": tables.load(4).cells, "ASPP": tables.load(6).cells}
    return [
        Claim(
            name,
            sentence,
            "4.2, 4.3",
            (4, 6),
            tuple(_beats(f"{network}: {name}", rows[step + 1], rows[step]) for network, rows in networks.items()),
        )
        for step, (name, sentence) in enumerate(sentences.items())
    ]


def _aspp() -> list[Claim]:
    """Table 5, and Table 6 against Table 4."""
    five, four, six = tables.load(5), tables.load(4), tables.load(6)

    def row(grid: str, rates: str = "(6,12,18)", pooling: str = "no") -> Cell:
        return five.cell(multi_grid=grid, rates=rates, image_pooling=pooling)

    plain = row("(1,2,4)")
    return [
        Claim(
            "multi-grid helps ASPP",
            "Multi-grid (1,2,4) in block4 is better than (1,1,1) before ASPP.",
            "4.3",
            (5,),
            (_beats("(1,2,4) over (1,1,1)", plain, row("(1,1,1)")),),
        ),
        Claim(
            "a fourth rate does not help",
            "An additional parallel branch with rate 24 drops the performance slightly.",
            "4.3",
            (5,),
            (_beats("(6,12,18) over (6,12,18,24)", plain, row("(1,2,4)", "(6,12,18,24)")),),
        ),
        Claim(
            "image-level features help",
            "Augmenting ASPP with image-level features is effective.",
            "4.3",
            (5,),
            (_beats("with image pooling over without", row("(1,2,4)", pooling="yes"), plain),),
        ),
        Claim(
            "ASPP beats the cascade",
            "The best ASPP model is better than the best cascade, before and after every strategy of inference.",
            "4.3",
            (4, 6),
            tuple(
                _beats(name, aspp, cascade)
                for name, aspp, cascade in zip(
                    ("output stride 16", "output stride 8", "8, multi-scale", "8, multi-scale, flip"),
                    six.cells,
                    four.cells,
                    strict=False,  # Table 6 has one row more, with COCO
                )
            ),
        ),
    ]


def _protocol() -> list[Claim]:
    """Table 8."""
    eight = tables.load(8)
    best = eight.cell(crop="513", upsample_logits="yes", fine_tune_batch_norm="yes")
    return [
        Claim(
            "upsampled logits help",
            "Upsampling the logits in training is better than shrinking the ground truth.",
            "A",
            (8,),
            (_beats("upsampled logits over shrunk truth", best, eight.cell(upsample_logits="no")),),
        ),
        Claim(
            "fine-tuned batch norm helps",
            "Fine-tuning batch norm is better than freezing it.",
            "A",
            (8,),
            (_beats("fine-tuned over frozen", best, eight.cell(fine_tune_batch_norm="no")),),
        ),
        Claim(
            "crop 513 matters",
            "A crop of 513 is better than one of 321.",
            "A",
            (8,),
            (_beats("crop 513 over 321", best, eight.cell(crop="321")),),
        ),
    ]


def _batch_and_stride() -> list[Claim]:
    """Tables 9 and 10."""
    batches = {cell.keys["batch"]: cell for cell in tables.load(9).cells}
    ten = tables.load(10)

    def cell(trained: str, evaluated: str) -> Cell:
        return ten.cell(training_output_stride=trained, output_stride=evaluated)

    def trained_at_16(other: str, evaluated: str) -> Comparison:
        name = f"evaluated at {evaluated}: trained at 16 over {other}"
        return _beats(name, cell("16", evaluated), cell(other, evaluated))

    return [
        Claim(
            "batch 16 matters",
            "A batch of 16 is better than smaller ones.",
            "A",
            (9,),
            tuple(_beats(f"batch 16 over {size}", batches["16"], batches[size]) for size in ("4", "8", "12")),
        ),
        *(
            Claim(
                f"training at 16 beats training at {other}",
                f"Training at output stride {other}, with the batch that fits, is worse than at 16, however evaluated.",
                "A",
                (10,),
                (trained_at_16(other, "16"), trained_at_16(other, "8")),
            )
            for other in ("8", "32")
        ),
        Claim(
            "trained at 32, output stride 8 does not help",
            "Only the model that was trained at output stride 32 does not gain from evaluation at 8.",
            "A",
            (10,),
            (_beats("trained at 32: evaluated at 16 over 8", cell("32", "16"), cell("32", "8")),),
        ),
    ]

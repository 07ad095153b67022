"""The paper's ordinal claims, and the verdict that a profile's records give on each.

A claim says that some cells of the tables are better than others. The verdict is not ours but that of the intervals
(:mod:`walkthrough.report.intervals`):

- *supported*: in every comparison the 95 % interval of the difference lies above 0;
- *contradicted*: in one comparison it lies below 0. Where a claim makes several, that interval is as much wider as
  keeps the chance of a single false alarm among them where one comparison has it, at 2.5 % (Bonferroni);
- *not decided*: anything else; *missing*: there is no record yet of any comparison. Where only some of a claim's
  comparisons have records, the verdict is on those and says how many.

No claim is adjusted to what was measured: each says what the paper says, with the cells that the paper says it of.
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
    """One sentence of the paper, where it stands, and the comparisons that it makes; ``tables`` is where the cells are.

    ``sentence`` is ours, in the paper's terms, unless it has quotation marks.
    """

    name: str
    sentence: str
    section: str
    tables: tuple[int, ...]
    comparisons: tuple[Comparison, ...]


def load() -> list[Claim]:
    """The claims, in the order of the paper's tables."""
    return [*_cascade(), *_inference(), *_aspp(), *_appendix()]


def _beats(name: str, better: Cell, worse: Cell) -> Comparison:
    return Comparison(name, ((1, better), (-1, worse)))


def _cascade() -> list[Claim]:
    one, two, three = tables.load(1), tables.load(2), tables.load(3)
    strides = ("8", "16", "32", "64", "128", "256")
    blocks = ("block4", "block5", "block6", "block7")
    grids = ("(1,2,1)", "(1,2,3)", "(1,2,4)")

    def stride(value: str) -> Cell:
        return one.cell(output_stride=value)

    def depth(network: str, block: str) -> Cell:
        return two.cell(network=network, last_block=block)

    def grid(value: str, block: str) -> Cell:
        return three.cell(multi_grid=value, last_block=block)

    def row(value: str) -> list[Cell]:
        return [grid(value, block) for block in blocks]

    def over_depths(better: str, worse: str) -> Comparison:
        terms = tuple((1 / 4, cell) for cell in row(better)) + tuple((-1 / 4, cell) for cell in row(worse))
        return Comparison(f"{better} over {worse}, mean of block4 to block7", terms)

    best = grid("(1,2,1)", "block7")
    return [
        Claim(
            "atrous convolution is essential",
            "Without atrous convolution (output stride 256) block7 is much worse than with it (16).",
            "4.2",
            (1,),
            (_beats("output stride 16 over 256", stride("16"), stride("256")),),
        ),
        Claim(
            "a finer output stride is better",
            "mIoU falls with every doubling of the output stride, from 8 to 256.",
            "4.2",
            (1,),
            tuple(_beats(f"output stride {a} over {b}", stride(a), stride(b)) for a, b in pairwise(strides)),
        ),
        Claim(
            "more blocks help",
            "Cascaded blocks improve mIoU: block5, block6 and block7 are better than block4 alone.",
            "4.2",
            (2,),
            tuple(
                _beats(f"{network}: {block} over block4", depth(network, block), depth(network, "block4"))
                for network in ("ResNet-50", "ResNet-101")
                for block in blocks[1:]
            ),
        ),
        Claim(
            "the gain shrinks block by block",
            "The gain of another block becomes smaller from block5 to block7.",
            "4.2",
            (2,),
            tuple(
                Comparison(
                    f"{network}: gain of {block} over gain of {after}",
                    ((2, depth(network, block)), (-1, depth(network, before)), (-1, depth(network, after))),
                )
                for network in ("ResNet-50", "ResNet-101")
                for before, block, after in zip(blocks, blocks[1:], blocks[2:], strict=False)
            ),
        ),
        Claim(
            "block7 does not help ResNet-50",
            "block7 makes ResNet-50 slightly worse.",
            "4.2",
            (2,),
            (_beats("ResNet-50: block6 over block7", depth("ResNet-50", "block6"), depth("ResNet-50", "block7")),),
        ),
        Claim(
            "block7 still helps ResNet-101",
            "block7 improves ResNet-101 over block6.",
            "4.2",
            (2,),
            (_beats("ResNet-101: block7 over block6", depth("ResNet-101", "block7"), depth("ResNet-101", "block6")),),
        ),
        Claim(
            "multi-grid helps the cascade",
            "Multi-grid is better than (1,1,1), over the four depths of the cascade.",
            "4.2",
            (3,),
            tuple(over_depths(value, "(1,1,1)") for value in grids),
        ),
        Claim(
            "doubling the unit rates does not",
            "Simply doubling the unit rates, (2,2,2), is not effective: other grids are better, and none with block7.",
            "4.2",
            (3,),
            (
                *(over_depths(value, "(2,2,2)") for value in grids),
                _beats("block7: (1,1,1) over (2,2,2)", grid("(1,1,1)", "block7"), grid("(2,2,2)", "block7")),
            ),
        ),
        Claim(
            "block7 with (1,2,1) is best",
            "The best cascade has block7 and (1,2,1): better than each of the other nineteen.",
            "4.2",
            (3,),
            tuple(_beats(f"over {' '.join(c.keys.values())}", best, c) for c in three.cells if c.keys != best.keys),
        ),
    ]


def _inference() -> list[Claim]:
    steps = {
        "output stride 8 at inference adds": ("Output stride 8 at inference improves a model trained at 16.", 0),
        "multi-scale inputs add": ("Multi-scale inputs at inference improve it further.", 1),
        "flipped inputs add": ("Left-right flipped inputs at inference improve it further.", 2),
    }
    rows = {4: tables.load(4).cells, 6: tables.load(6).cells}
    networks = {4: "cascade", 6: "ASPP"}
    return [
        Claim(
            name,
            sentence,
            "4.2, 4.3",
            (4, 6),
            tuple(_beats(f"{networks[n]}: {name}", rows[n][step + 1], rows[n][step]) for n in rows),
        )
        for name, (sentence, step) in steps.items()
    ]


def _aspp() -> list[Claim]:
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


def _appendix() -> list[Claim]:
    eight, nine, ten = tables.load(8), tables.load(9), tables.load(10)
    best = eight.cell(crop="513", upsample_logits="yes", fine_tune_batch_norm="yes")

    def batch(value: str) -> Cell:
        return nine.cell(batch=value)

    def trained(value: str, evaluated: str) -> Cell:
        return ten.cell(training_output_stride=value, output_stride=evaluated)

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
        Claim(
            "batch 16 matters",
            "A batch of 16 is better than smaller ones.",
            "A",
            (9,),
            tuple(_beats(f"batch 16 over {value}", batch("16"), batch(value)) for value in ("4", "8", "12")),
        ),
        *(
            Claim(
                f"training at 16 beats training at {other}",
                f"Training at output stride {other}, with the batch that fits, is worse than at 16, however evaluated.",
                "A",
                (10,),
                tuple(
                    _beats(f"evaluated at {at}: trained at 16 over {other}", trained("16", at), trained(other, at))
                    for at in ("16", "8")
                ),
            )
            for other in ("8", "32")
        ),
        Claim(
            "trained at 32, output stride 8 does not help",
            "Only the model that was trained at output stride 32 does not gain from evaluation at 8.",
            "A",
            (10,),
            (_beats("trained at 32: evaluated at 16 over 8", trained("32", "16"), trained("32", "8")),),
        ),
    ]

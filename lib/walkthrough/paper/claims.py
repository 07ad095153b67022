"""The paper's ordinal claims as data: each says that some cells of the tables are better than others.

No claim is adjusted to what was measured: each says what the paper says, with the cells that the paper says it of.
Bounds and margins are the paper's own (:mod:`walkthrough.paper.comparisons`) and were fixed before the records that
ship were made. Verdicts are in :mod:`walkthrough.report.verdicts`.
"""

from collections.abc import Collection
from itertools import pairwise

from walkthrough.paper import appendix_claims, tables
from walkthrough.paper.comparisons import DELTA, MUCH, Claim, Comparison, beats, no_gain, steps
from walkthrough.paper.tables import Cell

BLOCKS = ("block4", "block5", "block6", "block7")


def load(data: Collection[str] = ()) -> list[Claim]:
    """The claims in the order of the paper's tables; those that are not counted come last.

    ``data`` is that of :func:`walkthrough.paper.tables.load`.
    """
    claims = [*_output_stride(), *_depth(), *_multi_grid(), *_inference(data), *_aspp(), *_versions()]
    claims += appendix_claims.load(data)
    return sorted(claims, key=lambda claim: not claim.counted)


def _output_stride() -> list[Claim]:
    """Table 1."""
    cells = {cell.keys["output_stride"]: cell for cell in tables.load(1).cells}

    def finer(a: str, b: str, bound: float = 0.0) -> Comparison:
        return Comparison(f"output stride {a} over {b}", ((1, cells[a]), (-1, cells[b])), bound)

    return [
        Claim(
            "atrous convolution is essential",
            "Without atrous convolution (output stride 256) block7 is much worse than at every other output stride.",
            "4.2",
            (1,),
            tuple(finer(stride, "256", MUCH) for stride in list(cells)[:-1]),
        ),
        Claim(
            "a finer output stride is better",
            "mIoU falls with every doubling of the output stride, from 8 to 256.",
            "4.2",
            (1,),
            tuple(finer(a, b) for a, b in pairwise(cells)),
        ),
        Claim(
            "output stride 16 costs accuracy",
            "Output stride 16, several times faster than 8, is less accurate.",
            "4.1",
            (1,),
            (finer("8", "16"),),
        ),
    ]


def _depth() -> list[Claim]:
    """Table 2."""
    cells = {tuple(cell.keys.values()): cell for cell in tables.load(2).cells}
    networks = ("ResNet-50", "ResNet-101")

    def deeper(network: str, a: str, b: str) -> Comparison:
        return beats(f"{network}: {a} over {b}", cells[network, a], cells[network, b])

    def gains(network: str) -> list[Comparison]:
        """The gain of a block, ``b - a``, over that of the next one, ``c - b``."""
        triples = zip(BLOCKS, BLOCKS[1:], BLOCKS[2:], strict=False)
        return [
            Comparison(
                f"{network}: gain of {b} over gain of {c}",
                ((2, cells[network, b]), (-1, cells[network, a]), (-1, cells[network, c])),
            )
            for a, b, c in triples
        ]

    added = (("block5", "block4"), ("block6", "block4"), ("block7", "block4"), ("block6", "block5"))
    return [
        Claim(
            "more blocks help",
            "mIoU improves as blocks are added: block5 to block7 over block4 alone, and block6 over block5.",
            "4.2",
            (2,),
            tuple(deeper(network, a, b) for network in networks for a, b in added),
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
            "block7 makes ResNet-50 slightly worse: it is no gain over block6.",
            "4.2",
            (2,),
            (no_gain("ResNet-50: block6 over block7", cells["ResNet-50", "block6"], cells["ResNet-50", "block7"]),),
        ),
        Claim(
            "block7 still helps ResNet-101",
            "block7 improves ResNet-101 over block6.",
            "4.2",
            (2,),
            (deeper("ResNet-101", "block7", "block6"),),
        ),
        Claim(
            "ResNet-101 beats ResNet-50",
            "ResNet-101 is better than ResNet-50 at every depth of the cascade.",
            "4.2",
            (2,),
            tuple(
                beats(f"{block}: ResNet-101 over ResNet-50", cells["ResNet-101", block], cells["ResNet-50", block])
                for block in BLOCKS
            ),
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

    def over_grids(better: str, worse: str) -> Comparison:
        terms = [(sign / 3, cells[grid, block]) for sign, block in ((1, better), (-1, worse)) for grid in grids]
        return Comparison(f"{better} over {worse}, mean of the three grids", tuple(terms))

    def best_over_others(bound: float) -> tuple[Comparison, ...]:
        others = [(keys, cell) for keys, cell in cells.items() if cell != best]
        return tuple(Comparison(f"over {' '.join(keys)}", ((1, best), (-1, cell)), bound) for keys, cell in others)

    return [
        Claim(
            "multi-grid helps the cascade",
            "Multi-grid is better than (1,1,1), over the four depths of the cascade.",
            "4.2",
            (3,),
            tuple(over_depths(grid, "(1,1,1)") for grid in grids),
        ),
        Claim(
            "doubling the unit rates does not help",
            "Simply doubling the unit rates, (2,2,2), is not effective: other grids are better, and at block6 and "
            "block7 (not before) it is no gain over (1,1,1).",
            "4.2",
            (3,),
            (
                *(over_depths(grid, "(2,2,2)") for grid in grids),
                *(
                    no_gain(f"{block}: (1,1,1) over (2,2,2)", cells["(1,1,1)", block], cells["(2,2,2)", block])
                    for block in BLOCKS[2:]
                ),
            ),
        ),
        Claim(
            "deeper helps with multi-grid",
            "Going deeper with multi-grid improves mIoU, block by block and from block4 to block7.",
            "4.2",
            (3,),
            (*(over_grids(b, a) for a, b in pairwise(BLOCKS)), over_grids("block7", "block4")),
        ),
        Claim(
            "multi-grid at block4 grows with the grid",
            "In the block4 column mIoU rises from (1,1,1) over (1,2,1) and (1,2,3) to (1,2,4).",
            "4.3",
            (3,),
            steps("block4: ", [(grid, cells[grid, "block4"]) for grid in ("(1,1,1)", *grids)]),
        ),
        Claim(
            "block7 with (1,2,1) is best",
            "The best cascade has block7 and (1,2,1): none of the other nineteen is better by half a point.",
            "4.2",
            (3,),
            best_over_others(-DELTA),
        ),
        Claim(
            "block7 with (1,2,1) is strictly best",
            "The same read strictly: block7 with (1,2,1) is better than each of the other nineteen.",
            "4.2",
            (3,),
            best_over_others(0.0),
            counted=False,
        ),
    ]


def _inference(data: Collection[str]) -> list[Claim]:
    """Tables 4 and 6, whose rows add one strategy after the other."""
    sentences = {
        "output stride 8 at inference adds": "Output stride 8 at inference improves a model trained at 16.",
        "multi-scale inputs add": "Multi-scale inputs at inference improve it further.",
        "flipped inputs add": "Left-right flipped inputs at inference improve it further.",
    }
    networks = {"cascade": tables.load(4).cells, "ASPP": tables.load(6, data).cells}
    claims = [
        Claim(
            name,
            sentence,
            "4.2, 4.3",
            (4, 6),
            tuple(beats(f"{network}: {name}", rows[step + 1], rows[step]) for network, rows in networks.items()),
        )
        for step, (name, sentence) in enumerate(sentences.items())
    ]
    *_, without, with_coco = networks["ASPP"]
    coco = beats("with COCO over without", with_coco, without)
    sentence = "Pre-training on COCO improves the best ASPP model further."
    return [*claims, Claim("pre-training on COCO adds", sentence, "4.3", (6,), (coco,))]


def _aspp() -> list[Claim]:
    """Table 5, and Table 6 against Table 4."""
    five, four, six = tables.load(5), tables.load(4), tables.load(6)

    def row(grid: str, rates: str = "(6,12,18)", pooling: str = "no") -> Cell:
        return five.cell(multi_grid=grid, rates=rates, image_pooling=pooling)

    plain = row("(1,2,4)")
    strategies = ("output stride 16", "output stride 8", "8, multi-scale", "8, multi-scale, flip")
    *before, final = (
        beats(name, aspp, cascade) for name, aspp, cascade in zip(strategies, six.cells, four.cells, strict=False)
    )  # Table 6 has one row more, with COCO
    return [
        Claim(
            "multi-grid helps ASPP",
            "Before ASPP multi-grid (1,2,1) in block4 is better than (1,1,1), and (1,2,4) better still.",
            "4.3",
            (5,),
            steps("", [(grid, row(grid)) for grid in ("(1,1,1)", "(1,2,1)", "(1,2,4)")]),
        ),
        Claim(
            "a fourth rate does not help",
            "An additional parallel branch with rate 24 drops the performance slightly: it is no gain.",
            "4.3",
            (5,),
            (no_gain("(6,12,18) over (6,12,18,24)", plain, row("(1,2,4)", "(6,12,18,24)")),),
            slight=True,
        ),
        Claim(
            "image-level features help",
            "Augmenting ASPP with image-level features is effective.",
            "4.3",
            (5,),
            (beats("with image pooling over without", row("(1,2,4)", pooling="yes"), plain),),
        ),
        Claim(
            "ASPP beats the cascade",
            "The best ASPP model is better than the best cascade, both with every strategy of inference.",
            "4.3",
            (4, 6),
            (final,),
        ),
        Claim(
            "ASPP beats the cascade before, too",
            "The paper's rows, not its words: ASPP is better than the cascade before each strategy of inference.",
            "4.3",
            (4, 6),
            tuple(before),
            counted=False,
        ),
    ]


def _versions() -> list[Claim]:
    """Table 14, DeepLabv2; the paper says of it what it says in Section 4.3."""
    table = tables.load(14)
    best = {name: table.cell(network=name, scales="6") for name in ("cascade", "ASPP")}
    published, normalized = (table.cell(network="DeepLabv2", batch_norm=norm) for norm in ("frozen", "fine-tuned"))
    head = table.cell(network="DeepLabv2's head", scales="6")
    return [
        Claim(
            "both models beat DeepLabv2",
            "The best cascade and the best ASPP model are better than DeepLabv2, whose 77.69 has CRF and COCO; "
            "theirs have neither.",
            "4.3",
            (4, 6, 14),
            tuple(beats(f"{name} over DeepLabv2", cell, published) for name, cell in best.items()),
        ),
        Claim(
            "mainly by batch norm",
            "More than half of that gain is batch norm's, which is included and fine-tuned (the paper prints no such "
            "ablation).",
            "4.3",
            (14,),
            (
                Comparison(
                    "gain of batch norm over gain of the rest", ((2, normalized), (-1, published), (-1, best["ASPP"]))
                ),
            ),
        ),
        Claim(
            "both models beat DeepLabv2's head",
            "Not in the paper: they are better than DeepLabv2's head in their protocol.",
            "4.3",
            (14,),
            tuple(beats(f"{name} over DeepLabv2's head", cell, head) for name, cell in best.items()),
            counted=False,
        ),
    ]

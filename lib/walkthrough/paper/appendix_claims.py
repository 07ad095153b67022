"""The claims of the test set and of the appendices: Tables 7 to 13."""

from collections.abc import Collection

from walkthrough.paper import tables
from walkthrough.paper.comparisons import Claim, Comparison, beats, no_gain, steps
from walkthrough.paper.tables import Cell


def load(data: Collection[str]) -> list[Claim]:
    """The claims in the order of the tables; ``data`` is that of :func:`walkthrough.paper.tables.load`."""
    return [*_test_set(), *_protocol(), *_batch_and_stride(), *_elsewhere(data)]


def _test_set() -> list[Claim]:
    """Figure 7 and Table 7; neither is run."""
    methods = [(name, tables.load(7).cell(method=name)) for name in ("DeepLabv2-CRF", "DeepLabv3", "DeepLabv3-JFT")]
    return [
        Claim(
            "bootstrapping helps hard classes",
            "Listing images with hard classes more often in stage 2 improves these classes, such as bicycle (Fig. 7).",
            "4.3",
            (),
            (),
        ),
        Claim(
            "the test set agrees",
            "On VOC's test set DeepLabv3 is better than DeepLabv2 with CRF, and pre-training on JFT better still.",
            "4.3",
            (7,),
            steps("", methods),
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
            (beats("upsampled logits over shrunk labels", best, eight.cell(upsample_logits="no")),),
        ),
        Claim(
            "fine-tuned batch norm helps",
            "Fine-tuning batch norm is better than freezing it.",
            "A",
            (8,),
            (beats("fine-tuned over frozen", best, eight.cell(fine_tune_batch_norm="no")),),
        ),
        Claim(
            "crop 513 matters",
            "A crop of 513 is better than one of 321.",
            "A",
            (8,),
            (beats("crop 513 over 321", best, eight.cell(crop="321")),),
        ),
    ]


def _batch_and_stride() -> list[Claim]:
    """Tables 9 and 10."""
    ten = tables.load(10)

    def cell(trained: str, evaluated: str) -> Cell:
        return ten.cell(training_output_stride=trained, output_stride=evaluated)

    def trained_at_16(other: str, evaluated: str) -> Comparison:
        name = f"evaluated at {evaluated}: trained at 16 over {other}"
        return beats(name, cell("16", evaluated), cell(other, evaluated))

    return [
        Claim(
            "a larger batch is better",
            "The larger the batch, the better: 8 over 4, 12 over 8 and 16 over 12.",
            "A",
            (9,),
            steps("batch ", [(cell.keys["batch"], cell) for cell in tables.load(9).cells]),
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
            "Evaluation at output stride 8 improves what was trained at 8 and at 16, and is no gain after 32.",
            "A",
            (10,),
            (
                *(
                    beats(f"trained at {stride}: evaluated at 8 over 16", cell(stride, "8"), cell(stride, "16"))
                    for stride in ("8", "16")
                ),
                no_gain("trained at 32: evaluated at 16 over 8", cell("32", "16"), cell("32", "8")),
            ),
        ),
    ]


def _elsewhere(data: Collection[str]) -> list[Claim]:
    """Tables 11, which is not run, and 12."""
    one, *more = tables.load(11).cells
    strategies = ("output stride 16", "output stride 8", "multi-scale", "flip")
    return [
        Claim(
            "more replicas do not drop",
            "Training on 2 to 32 asynchronous replicas does not drop mIoU by half a point.",
            "B",
            (11,),
            tuple(no_gain(f"{cell.keys['replicas']} replicas over 1", cell, one) for cell in more),
        ),
        Claim(
            "Cityscapes agrees",
            "On Cityscapes output stride 8, multi-scale inputs and flipped inputs each improve the model further.",
            "C",
            (12,),
            steps("", list(zip(strategies, tables.load(12, data).cells, strict=True))),
        ),
    ]

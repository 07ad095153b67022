"""Everything that can be set: the network, the data, training, evaluation. Plain data, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deeplabv3.errors import UserError, require

VOID = 255
"""The label of pixels that neither the loss nor the metric counts."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

SYNTHETIC_CLASSES = (
    "background",
    "disc",
    "ring",
    "rod",
    "crate",
    "sun",
    "moon",
    "dark lamp",
    "lit lamp",
    "water",
    "ice",
)

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Random scales of the paper, 0.5 to 2.0, in the steps of the authors' public code."""

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The paper's scales for "MS"."""

HEADS = ("aspp", "cascade", "v2")

PRECISIONS = ("float32", "bfloat16")


def require_scales(scales: tuple, setting: str = "scales") -> None:
    """Scales of images: at least one, each a number above 0 and below 100."""
    fits = bool(scales) and all(isinstance(scale, (int, float)) and 0 < scale < 100 for scale in scales)
    require(fits, setting, scales, "a list of numbers above 0 and below 100")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the network. The defaults are the paper's best model (Table 5, last row).

    ``atrous_rates`` are stated for output stride 16, as the paper does, and follow the output stride from there.
    ``last_block`` is the block that the backbone ends in: 4, or 5 … 7 for the cascade. ``layout`` is explained at
    :func:`deeplabv3.model.atrous.plan_rates`.
    """

    num_classes: int = 21
    backbone: str = "resnet101"
    head: str = "aspp"
    output_stride: int = 16
    multi_grid: tuple[int, int, int] = (1, 2, 4)
    last_block: int = 4
    atrous_rates: tuple[int, ...] = (6, 12, 18)
    image_pooling: bool = True
    head_channels: int = 256
    dropout: float = 0.1
    layout: str = "paper"
    # The paper's crops are k * 16 + 1 pixels wide: features and pixels then share their corners.
    align_corners: bool = True
    extra_convolution: bool = False

    def __post_init__(self):
        # Lists arrive from YAML and JSON; equal networks should compare equal.
        object.__setattr__(self, "multi_grid", tuple(self.multi_grid))
        object.__setattr__(self, "atrous_rates", tuple(self.atrous_rates))
        if self.head not in HEADS:
            raise UserError(f"head {self.head!r} is unknown; choose one of {', '.join(HEADS)}.")
        require(1 <= self.num_classes <= 255, "num_classes", self.num_classes, "a whole number from 1 to 255")
        require(self.head_channels >= 1, "head_channels", self.head_channels, "a whole number of at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number from 0 to below 1")
        rates = all(isinstance(rate, int) and rate >= 1 for rate in self.atrous_rates)
        require(rates, "atrous_rates", self.atrous_rates, "whole numbers of at least 1")
        if self.head == "v2" and not self.atrous_rates:
            raise UserError("head 'v2' needs at least one entry in atrous_rates.")


@dataclass(frozen=True)
class DataConfig:
    """Which images: ``kind`` is ``embedded`` (drawn, ``train`` + ``val`` of them) or ``voc`` (files in VOC's layout).

    ``classes`` maps label values to names; without it the kind's own classes are used. ``root`` is relative to the
    workspace, and gives way to ``$DEEPLABV3_DATA``, unless it is absolute. ``others`` says what a label value outside
    the classes is: an ``error``, or ``void``. No run's name has it: where both give a result, it is the same one.
    """

    kind: str = "embedded"
    root: str = ""
    train: int = 0
    val: int = 0
    train_list: str = "train"
    val_list: str = "val"
    classes: Mapping[int, str] = field(default_factory=dict)
    others: str = "error"

    def __post_init__(self):
        require(self.kind in ("embedded", "voc"), "kind", self.kind, "'embedded' or 'voc'")
        numbers = all(isinstance(label, int) and 0 <= label < VOID for label in self.classes)
        names = all(isinstance(name, str) for name in self.classes.values())
        require(numbers and names, "classes", self.classes, "label values from 0 to 254, each with a name")
        require(self.others in ("error", "void"), "others", self.others, "'error' or 'void'")
        if self.kind == "embedded":
            require(min(self.train, self.val) >= 1, "train and val", (self.train, self.val), "numbers of at least 1")

    def class_map(self) -> dict[int, str]:
        """Label value to class name, in the order of the model's classes."""
        if self.classes:
            return dict(self.classes)
        return dict(enumerate(SYNTHETIC_CLASSES if self.kind == "embedded" else VOC_CLASSES))


@dataclass(frozen=True)
class TrainingConfig:
    """How a run trains. The defaults are the paper's stage 1 (Section 4.1), with the authors' public weight decay.

    ``batch`` is the number of crops in a step, over all processes and all ``accumulate`` parts. ``batch_norm_momentum``
    is PyTorch's, 1 minus the paper's decay. Images with one of ``hard_classes`` stand ``hard_class_copies`` times in
    the list: the paper's bootstrapping, whose factor it does not say.

    Not from the paper: ``precision`` bfloat16 computes the network's features so (the loss and the weights stay in
    float32). ``accumulate`` adds up the gradients of so many parts of a batch before a step, for cards that do not hold
    it; the gradient is the whole batch's, but batch norm only ever sees a part, so its statistics are those of a
    smaller batch (Table 9), and its running averages move once for each part. The four ``backbone_*`` settings let
    short runs start from pretrained weights: factor on the learning rate, steps during which the backbone is held
    still, steps over which its rate then rises, and the norm that its gradient is clipped to.
    """

    iterations: int = 30_000
    batch: int = 16
    crop: int = 513
    lr: float = 0.007
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_norm_momentum: float = 0.0003
    freeze_batch_norm: bool = False
    upsample_logits: bool = True
    scales: tuple[float, ...] = SCALES
    flip: bool = True
    backbone_lr_factor: float = 1.0
    backbone_hold: int = 0
    backbone_ramp: int = 0
    backbone_clip_norm: float | None = None
    precision: str = "float32"
    accumulate: int = 1
    hard_classes: tuple[str, ...] = ()
    hard_class_copies: int = 2

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "hard_classes", tuple(self.hard_classes))
        require_scales(self.scales)
        for name in ("iterations", "batch", "crop", "accumulate", "hard_class_copies"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "a whole number of at least 1")
        for name in ("lr", "power", "weight_decay", "backbone_lr_factor", "backbone_hold", "backbone_ramp"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        clip = self.backbone_clip_norm
        require(clip is None or clip > 0, "backbone_clip_norm", clip, "a number above 0, or null")
        for name in ("momentum", "batch_norm_momentum"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        require(self.batch % self.accumulate == 0, "accumulate", self.accumulate, f"a divisor of 'batch' {self.batch}")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained model is evaluated.

    ``padding="crop"`` pads every image bottom and right with the mean pixel to ``crop`` x ``crop`` as the paper does
    (a larger image is padded to its own size in whole strides); ``"tight"`` only to the next size that the output
    stride divides, plus one. ``bf16`` computes the logits in bfloat16: twice as fast or more where the processor has
    it, at the price of some pixels that are nearly tied.
    """

    output_stride: int = 16
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crop: int = 513
    padding: str = "crop"
    bf16: bool = False

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        require_scales(self.scales)
        require(self.crop >= 1, "crop", self.crop, "a whole number of at least 1")
        if self.padding not in ("crop", "tight"):
            raise UserError(f"padding {self.padding!r} is unknown; choose 'crop' or 'tight'.")

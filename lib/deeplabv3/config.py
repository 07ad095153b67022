"""Everything that can be set: the network, the data, training, evaluation, and how they are computed. No torch."""

import math
import unicodedata
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
    "background", "disc", "ring", "rod", "crate", "sun", "moon", "dark lamp", "lit lamp", "water", "ice",
)  # fmt: skip

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, of values from 0 to 1."""

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Random scales in training: the paper's 0.5 to 2.0, in the steps of the authors' public code (Section 4.1)."""

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Scales of multi-scale inference (Section 4.2)."""

MAX_SIZE = 513
"""Pixels of the longer side of an image as the network sees it: VOC's images, and so its objects, are of that size."""

PRETRAINED_MAX_SIZE = 385
"""The same for the network in the library: of five sizes it segments VOC's images best at 0.75 (docs/model_card.md)."""

HEADS = ("aspp", "cascade", "v2")
STRIDE_UNITS = ("last", "first")
PRECISIONS = ("float32", "tf32", "bfloat16")
"""Of the network's features. On a GPU float32 is IEEE's, and tf32 rounds what a convolution multiplies to 10 bits."""


def require_scales(scales: tuple, setting: str = "scales") -> None:
    """Scales of images: at least one, each a number above 0 and below 100."""
    fits = bool(scales) and all(
        isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < 100 for scale in scales
    )
    require(fits, setting, scales, "a list of numbers above 0 and below 100")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the network. The defaults are the paper's best model (Table 5, last row)."""

    num_classes: int = 21  # VOC's 20 classes and the background
    backbone: str = "resnet101"  # a key of deeplabv3.model.atrous.BACKBONES
    head: str = "aspp"  # or the cascade's 1x1 classifier, or v2: DeepLabv2's sum of atrous classifiers
    output_stride: int = 16  # in training; 8 at inference (Section 4.1), 4 for Cityscapes' test set (Appendix C)
    multi_grid: tuple[int, int, int] = (1, 2, 4)  # unit rates of block4 and beyond (Section 3.2.1)
    last_block: int = 4  # the block that the backbone ends in; 5 to 7 for the cascade (Section 3.2)
    atrous_rates: tuple[int, ...] = (6, 12, 18)  # of ASPP at output stride 16; doubled at 8 (Section 3.3)
    image_pooling: bool = True  # image-level features (Section 3.3)
    head_channels: int = 256  # filters of every ASPP branch (Section 3.3)
    dropout: float = 0.1  # before the classifier; the paper does not say, torchvision has 0.5
    stride_unit: str = "last"  # the unit of a block that has its stride: the paper's last, torchvision's first
    align_corners: bool = True  # crops are k * 16 + 1 pixels wide: features and pixels then share their corners
    extra_convolution: bool = False  # a 3x3 convolution before the classifier, which only torchvision has
    head_batch_norm: bool = True  # in ASPP; DeepLabv2's had none (Section 3.3), and then its convolutions have biases
    mean: tuple[float, ...] = MEAN  # of red, green and blue from 0 to 1, removed from images; they are padded with it
    std: tuple[float, ...] = STD  # that images are divided by then

    def __post_init__(self):
        # Lists arrive from YAML and JSON; equal networks should compare equal.
        for name in ("multi_grid", "atrous_rates", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(self.head in HEADS, "head", self.head, f"one of {', '.join(HEADS)}")
        require(self.stride_unit in STRIDE_UNITS, "stride_unit", self.stride_unit, "'last' or 'first'")
        whole = isinstance(self.num_classes, int) and 1 <= self.num_classes <= 255
        require(whole, "num_classes", self.num_classes, "a whole number from 1 to 255")
        require(self.head_channels >= 1, "head_channels", self.head_channels, "a whole number of at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number from 0 to below 1")
        rates = all(isinstance(rate, int) and rate >= 1 for rate in self.atrous_rates)
        require(rates, "atrous_rates", self.atrous_rates, "whole numbers of at least 1")
        if self.head == "v2" and not self.atrous_rates:
            raise UserError("head 'v2' needs at least one entry in atrous_rates.")
        for name, least in (("mean", 0), ("std", 1 / 255)):
            values = getattr(self, name)
            fits = len(values) == 3 and all(least <= value <= 1 for value in values)
            require(fits, name, values, f"three numbers, of images from 0 to 1, each from {least:.2g} to 1")

    @property
    def mean_pixel(self) -> tuple[int, ...]:
        """Color that images are padded with: zero, or nearly, after normalization."""
        return tuple(round(255 * value) for value in self.mean)


def _refuse_equal_names(classes: Mapping[int, str]) -> None:
    """Refuse classes of one name, which differ in unicode's forms at most."""
    values: dict[str, int] = {}
    for value, name in classes.items():
        other = values.setdefault(unicodedata.normalize("NFC", name.strip()), value)
        if other != value:
            raise UserError(
                f"classes {other} and {value} have one name, {name!r}; name one of them otherwise, or, to merge them, "
                f"write {other} for {value} in the label files and leave {value} out of 'classes'."
            )


@dataclass(frozen=True)
class DataConfig:
    """Images and labels of a profile, and their classes."""

    kind: str = "synthetic"  # drawn, or "voc": files in VOC's layout
    root: str = ""  # of kind voc; in a YAML file of one's own relative to that file
    train: int = 0  # how many synthetic images to train on
    val: int = 0  # how many synthetic images to evaluate on
    train_list: str = "train"  # ImageSets/Segmentation/NAME.txt; the paper's is trainaug (Section 4)
    val_list: str = "val"
    classes: Mapping[int, str] = field(default_factory=dict)  # label value to name; empty: the kind's own
    void: int = VOID  # label value of pixels that neither the loss nor the metric counts
    unlisted_labels: str = "error"  # what a label value outside the classes is; "ignore" makes it void

    def __post_init__(self):
        require(self.kind in ("synthetic", "voc"), "kind", self.kind, "'synthetic' or 'voc'")
        numbers = all(isinstance(label, int) and 0 <= label <= 255 for label in self.classes)
        names = all(isinstance(name, str) and name.strip() for name in self.classes.values())
        require(numbers and names, "classes", self.classes, "label values from 0 to 255, each with a name")
        require(isinstance(self.void, int) and 0 <= self.void <= 255, "void", self.void, "a label value from 0 to 255")
        if self.void in self.class_map():
            raise UserError(
                f"label value {self.void} is void and cannot be a class; leave it out of 'classes', or choose another "
                "value for 'void' that your labels do not have."
            )
        _refuse_equal_names(self.classes)
        require(
            self.unlisted_labels in ("error", "ignore"), "unlisted_labels", self.unlisted_labels, "'error' or 'ignore'"
        )
        if self.kind == "synthetic":
            require(min(self.train, self.val) >= 1, "train and val", (self.train, self.val), "numbers of at least 1")

    def class_map(self) -> dict[int, str]:
        """Label value to class name, in the order of the model's classes."""
        if self.classes:
            return dict(self.classes)
        return dict(enumerate(SYNTHETIC_CLASSES if self.kind == "synthetic" else VOC_CLASSES))


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that determines how a run trains. The defaults are the paper's stage 1 (Section 4.1)."""

    iterations: int = 30_000  # steps
    batch_size: int = 16  # crops in a step, over all processes and all parts
    crop_size: int = 513  # pixels a side
    lr: float = 0.007  # learning rate at step 0
    power: float = 0.9  # of the poly schedule
    momentum: float = 0.9  # of SGD; the paper does not say, the authors' public code has 0.9
    weight_decay: float = 1e-4  # as in the authors' public code
    batch_norm_momentum: float = 0.0003  # PyTorch's: 1 minus the paper's decay of 0.9997
    freeze_batch_norm: bool = False  # stage 2 freezes it
    upsample_logits: bool = True  # the loss at the labels' size; downsampled labels lose 1.2 points (Table 8)
    scales: tuple[float, ...] = SCALES  # drawn from at random
    flip: bool = True  # left to right, at random
    # Not from the paper: lets short runs start from pretrained weights.
    backbone_lr_factor: float = 1.0  # the backbone's learning rate, as a multiple of the head's
    backbone_freeze_steps: int = 0  # steps during which the backbone does not move; in a profile also 5%, of all steps
    backbone_warmup_steps: int = 0  # steps after that, over which its learning rate rises; likewise
    backbone_clip_norm: float | None = None  # its gradient is clipped to this norm
    # Not from the paper: what the hardware wants. Loss and weights are float32 in either precision.
    precision: str = "float32"  # or another of PRECISIONS
    grad_accum_steps: int = 1  # parts of a batch whose gradients are summed; batch norm sees a part at a time (Table 9)
    # Bootstrapping: images with one of these classes are listed so many times (Section 4.3, which gives no factor).
    hard_classes: tuple[str, ...] = ()
    hard_class_copies: int = 2

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        object.__setattr__(self, "hard_classes", tuple(self.hard_classes))
        require_scales(self.scales)
        # A smaller crop is a single feature, even at output stride 8.
        lowest = {"iterations": 1, "batch_size": 1, "crop_size": 9, "grad_accum_steps": 1, "hard_class_copies": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            require(isinstance(value, int) and value >= least, name, value, f"a whole number of at least {least}")
        not_negative = ("lr", "power", "weight_decay", "backbone_lr_factor", "backbone_freeze_steps")
        for name in (*not_negative, "backbone_warmup_steps"):
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "a number of at least 0")
        clip = self.backbone_clip_norm
        require(clip is None or clip > 0, "backbone_clip_norm", clip, "a number above 0, or null")
        for name in ("momentum", "batch_norm_momentum"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")
        parts = self.grad_accum_steps
        require(self.batch_size % parts == 0, "grad_accum_steps", parts, f"a divisor of batch_size {self.batch_size}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation: an "inference strategy" of Tables 4 and 6."""

    output_stride: int = 16  # the paper's finest is 8 on VOC, 4 on Cityscapes
    scales: tuple[float, ...] = (1.0,)  # class probabilities are averaged over them; the paper's are MULTI_SCALE
    flip: bool = False  # average with the flipped image too
    fusion: str = "mean"  # of scales and flip; "max": the largest logits of any, as DeepLabv2
    crop_size: int = 513  # what "crop" pads to, pixels a side
    padding: str = "crop"  # with the mean pixel to the crop, as the paper; "tight": to the next whole stride plus 1
    precision: str = "float32"  # bfloat16 is twice as fast or more, and changes pixels that are nearly tied
    tile_size: int = 0  # larger images go through the network in overlapping tiles of this many pixels a side; 0: whole

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        require_scales(self.scales)
        least = 16 * self.output_stride + 1
        wanted = f"at output stride {self.output_stride} a number of at least {least}, or 0 for whole images"
        require(self.tile_size == 0 or self.tile_size >= least, "tile_size", self.tile_size, wanted)
        require(self.crop_size >= 1, "crop_size", self.crop_size, "a whole number of at least 1")
        require(self.padding in ("crop", "tight"), "padding", self.padding, "'crop' or 'tight'")
        require(self.fusion in ("mean", "max"), "fusion", self.fusion, "'mean' or 'max'")
        require(self.precision in PRECISIONS, "precision", self.precision, f"one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class RuntimeConfig:
    """Settings of the computation; none of them determines a result."""

    num_workers: int = 0  # processes that cut training crops; 0: the training process itself
    cache: str = "auto"  # decoded images in memory: always, never, or auto: if a quarter of the free memory suffices
    eval_batch_size: int = 1  # images of one padded size at once
    parallel_runs: int = 1  # of a sweep, on each GPU, or on the CPU without one; 0: one a core, at most 8 on each GPU
    compile: bool = False  # torch.compile of the training step, and of very long evaluations
    deterministic: bool = False  # equal runs end with equal bits on a GPU too, more slowly; on the CPU they always do
    keep_checkpoints: int = 2  # of each run
    save_every_s: float = 60.0  # seconds between checkpoints

    def __post_init__(self):
        require(self.cache in ("auto", "always", "never"), "cache", self.cache, "'auto', 'always' or 'never'")
        lowest = {"num_workers": 0, "eval_batch_size": 1, "parallel_runs": 0, "keep_checkpoints": 1, "save_every_s": 0}
        for name, least in lowest.items():
            require(getattr(self, name) >= least, name, getattr(self, name), f"a number of at least {least}")

"""What a run's training is made of, as data (Section 4.1)."""

from dataclasses import dataclass

from deeplabv3.data.loader import SCALES
from deeplabv3.errors import require, require_scales

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingSettings:
    """How a run trains. The defaults are the paper's stage 1 (Section 4.1), with the authors' public weight decay.

    ``batch`` is the number of crops in a step, over all processes and all ``accumulate`` parts. ``batch_norm_momentum``
    is PyTorch's, 1 minus the paper's decay. Pictures with one of ``hard_classes`` stand ``hard_class_copies`` times in
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

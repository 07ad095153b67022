"""``deeplabv3 bench train``: one training step, ours beside that of torchvision's reference script.

The script is torchvision's references/segmentation/train.py with the options that its README gives for DeepLabV3:
auxiliary head and loss, SGD, its own mean over pixels, on a GPU float16 with a gradient scaler (``--amp``), and a loss
that is read in every step. Its input is what its loader returns, float32 and int64 in pageable memory; ours is uint8 in
pinned memory. Its network in channels last, with the input on the device and without the auxiliary head, is the fair
one to compare with. All variants see the same images and labels, and are timed interleaved.
"""

import itertools
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50, resnet101
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import DeepLabV3 as TorchvisionDeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from deeplabv3.config import VOC_CLASSES, VOID, ModelConfig, TrainingConfig
from deeplabv3.data.transforms import normalize
from deeplabv3.device import compute_settings
from deeplabv3.errors import UserError, require
from deeplabv3.model.cost import multiply_adds
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.step import ModelWithLoss, make_optimizer, training_step
from walkthrough.bench.timing import Variant, describe_machine, threads, time_interleaved

BACKBONES = {"resnet50": resnet50, "resnet101": resnet101}
"""Backbones of torchvision's DeepLabV3."""

GOALS = {
    "cpu": "goal on two cores: at least 1.0x torchvision's script",
    "cuda": "goal on one H200 with ResNet-101, output stride 16, crop 513, batch 16: at least 1.5x the row "
    "'torchvision, channels last', and at most 30 ms a step",
}


@dataclass(frozen=True)
class Script:
    """A variant of torchvision's script."""

    channels_last: bool = False  # and the input on the device already, which is not timed
    auxiliary: bool = True  # with the auxiliary head and its loss
    precision: str = ""  # empty: the script's
    output_stride: int | None = None  # None: that of the benchmark


CHANNELS_LAST, BARE = "torchvision, channels last", "torchvision, no auxiliary head, bfloat16"

TORCHVISION = {
    "torchvision, its script": Script(),
    CHANNELS_LAST: Script(True),
    "torchvision, no auxiliary head": Script(True, False, "float32"),
    BARE: Script(True, False, "bfloat16"),
    "torchvision, output stride 8": Script(output_stride=8),
}
"""Rows of the table for torchvision; those without the auxiliary head have channels last too."""


@dataclass(frozen=True)
class Switches:
    """Options that make our step fast; each has a row of its own in the table."""

    channels_last: bool = False
    precision: str = "float32"
    fused: bool = False  # else one kernel an operation on a GPU ("foreach"), as in torchvision's rows
    compile_mode: str = ""  # of torch.compile; empty: not compiled


OURS = {
    "ours": Switches(),
    "+ channels last": Switches(True),
    "+ bfloat16": Switches(True, "bfloat16"),
    "+ fused optimizer": Switches(True, "bfloat16", True),
    "+ torch.compile": Switches(True, "bfloat16", True, "default"),
}
"""Rows of the table; each adds one option to the row above it."""


@dataclass(frozen=True)
class TrainBench:
    """Settings of the benchmark. The network is the best of Table 5: ASPP, multi-grid and image pooling."""

    bench: ClassVar[str] = "train"
    backbones: ClassVar[Collection[str]] = BACKBONES
    on_cpu: ClassVar[dict[str, int]] = {"crop_size": 257, "batch_size": 2, "rounds": 3, "steps": 1}  # paper's: an hour
    backbone: str = "resnet101"
    output_stride: int = 16
    crop_size: int = 513  # pixels a side
    batch_size: int = 16
    rounds: int = 7  # timings of each variant
    steps: int = 10  # training steps that are timed together
    device: str = "cpu"
    threads: int = 0  # on the CPU; 0: PyTorch's own choice
    compiled: bool = True  # with a row for torch.compile

    def __post_init__(self):
        require(self.backbone in self.backbones, "backbone", self.backbone, f"one of {', '.join(self.backbones)}")
        require(self.output_stride in (8, 16, 32), "output_stride", self.output_stride, "8, 16 or 32")
        for name, lowest in (("crop_size", 33), ("batch_size", 2), ("rounds", 3), ("steps", 1), ("threads", 0)):
            require(getattr(self, name) >= lowest, name, getattr(self, name), f"a whole number of at least {lowest}")
        require(self.device in ("cpu", "cuda"), "device", self.device, "'cpu' or 'cuda'")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' is not there; choose --device cpu.")

    @property
    def config(self) -> ModelConfig:
        """Our network, as the profile ``voc`` trains it."""
        return ModelConfig(
            len(VOC_CLASSES),
            self.backbone,
            output_stride=self.output_stride,
            multi_grid=(1, 2, 4),
            stride_unit="first",
        )

    def run(self) -> dict:
        """Measure and return JSON values: a row for each variant; the first is torchvision's unmodified script."""
        try:
            # cuDNN tries its algorithms, as in the script and our trainer; float32 is TF32 on a GPU, as in the script.
            with threads(self.threads), compute_settings("tf32", one_size=True):
                images, labels = self.random_batch()
                variants = {
                    name: Variant(make, self.steps, self.device) for name, make in self._makers(images, labels).items()
                }
                timings = time_interleaved("training", variants, self.rounds, self.device)
                machine = describe_machine(self.device, ("torch", "torchvision"))
                details = self._details({name: variant.step for name, variant in variants.items()})
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not hold the variants at batch {self.batch_size} and crop {self.crop_size}; "
                "lower --batch-size or --crop-size."
            ) from error
        return {
            "bench": self.bench,
            "settings": asdict(self),
            "machine": machine,
            **details,
            "rows": [
                {
                    "name": timing.name,
                    "seconds_per_step": timing.median / self.steps,
                    "images_per_second": self.batch_size * self.steps / timing.median,
                    "speed": timings[0].median / timing.median,
                    "peak_memory": variants[timing.name].peak_memory,
                    "first_loss": variants[timing.name].first_loss,
                    "first": timing.first,
                    "seconds": timing.seconds,
                }
                for timing in timings
            ],
        }

    def random_batch(self) -> tuple[Tensor, Tensor]:
        """Random images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8, with every class and void."""
        random = torch.Generator().manual_seed(0)
        images = torch.randint(
            256, (self.batch_size, self.crop_size, self.crop_size, 3), dtype=torch.uint8, generator=random
        )
        labels = torch.randint(len(VOC_CLASSES), images.shape[:3], dtype=torch.uint8, generator=random)
        labels[:, :8] = VOID
        return images, labels

    def _makers(self, images: Tensor, labels: Tensor) -> dict[str, Callable[[], Callable[[], Tensor]]]:
        makers: dict[str, Callable] = {}
        for name, script in TORCHVISION.items():
            if script.output_stride != self.output_stride:
                makers[name] = lambda script=script: self.torchvision_step(images, labels, script)
        for name, switches in OURS.items():
            if self.compiled or not switches.compile_mode:
                makers[name] = lambda switches=switches: self.our_step(images, labels, switches)
        return makers

    def _details(self, steps: dict[str, Callable[[], Tensor]]) -> dict:
        """More values of the result, measured with the rows' steps."""
        return {"multiply_adds": self._multiply_adds()}

    def torchvision_step(self, images: Tensor, labels: Tensor, script: Script) -> Callable[[], Tensor]:
        """Return a function that takes one step of torchvision's script, or of a variant of it."""
        torch.manual_seed(0)
        network = torchvision_network(self.backbone, script.output_stride or self.output_stride, script.auxiliary)
        network.to(self.device).train()
        images, targets = normalize(images).contiguous(), labels.long()
        if script.channels_last:
            network.to(memory_format=torch.channels_last)
            images, targets = images.to(self.device, memory_format=torch.channels_last), targets.to(self.device)
        groups: list[dict] = [{"params": part.parameters()} for part in (network.backbone, network.classifier)]
        if script.auxiliary:
            groups.append({"params": network.aux_classifier.parameters(), "lr": 0.1})
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30_000, power=0.9)
        precision = script.precision or ("float16" if self.device == "cuda" else "float32")
        scaler = torch.amp.GradScaler(self.device, enabled=precision == "float16")

        def step() -> Tensor:
            inputs, truth = images.to(self.device), targets.to(self.device)
            with torch.autocast(self.device, getattr(torch, precision), enabled=precision != "float32"):
                loss = reference_loss(network(inputs), truth)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            loss.item()  # the script logs every step's loss
            return loss.detach()

        return step

    def our_step(self, images: Tensor, labels: Tensor, switches: Switches) -> Callable[[], Tensor]:
        """Return a function that takes one step of our trainer."""
        torch.manual_seed(0)
        config = TrainingConfig(batch_size=self.batch_size, crop_size=self.crop_size, precision=switches.precision)
        model = DeepLabV3(self.config).set_batch_norm_momentum(config.batch_norm_momentum).to(self.device).train()
        if switches.channels_last:
            model.to(memory_format=torch.channels_last)
        else:
            # The same values in contiguous planes: a channels-last image would make every layer channels-last.
            images = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
        if self.device == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        optimizer = make_optimizer(model, config)
        for group in optimizer.param_groups:
            group["fused"] = switches.fused or None  # False would turn foreach off as well
        model_with_loss: nn.Module = ModelWithLoss(model, config)
        if switches.compile_mode:
            compiled = torch.compile(model_with_loss, dynamic=False, mode=switches.compile_mode)
            model_with_loss = cast(nn.Module, compiled)
        numbers = itertools.count()

        def step() -> Tensor:
            inputs, truth = (part.to(self.device, non_blocking=True) for part in (images, labels))
            return training_step(model_with_loss, optimizer, config, 0, next(numbers), inputs, truth)

        return step

    def _multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of both networks for one crop."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            torchvision_network(self.backbone, self.output_stride).eval()(
                torch.empty(1, 3, self.crop_size, self.crop_size)
            )
        return {
            "torchvision": counter.get_total_flops() // 2,
            "ours": multiply_adds(self.config, self.crop_size, self.crop_size),
        }


def torchvision_network(backbone: str, output_stride: int, auxiliary: bool = True) -> TorchvisionDeepLabV3:
    """torchvision's DeepLabV3 from its own parts, with random weights, and with the auxiliary head or without.

    torchvision's builder has output stride 8 only, with the rates (12, 24, 36); here rates follow the output stride.
    """
    dilated = {8: (False, True, True), 16: (False, False, True), 32: (False, False, False)}[output_stride]
    features = BACKBONES[backbone](weights=None, replace_stride_with_dilation=dilated)
    rates = tuple(rate * 16 // output_stride for rate in (6, 12, 18))
    return TorchvisionDeepLabV3(
        IntermediateLayerGetter(features, {"layer4": "out"} | ({"layer3": "aux"} if auxiliary else {})),
        DeepLabHead(2048, len(VOC_CLASSES), rates),
        FCNHead(1024, len(VOC_CLASSES)) if auxiliary else None,
    )


def reference_loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Loss of the script: cross-entropy of the head plus half that of the auxiliary head, if there is one."""
    losses = {name: F.cross_entropy(logits, labels, ignore_index=VOID) for name, logits in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"] if "aux" in losses else losses["out"]


def table(result: dict) -> list[str]:
    """Lines with the settings, the machine and the rows of a result."""
    settings = result["settings"]
    lines = [
        f"training, {settings['backbone']}, output stride {settings['output_stride']}, crop {settings['crop_size']}, "
        f"batch {settings['batch_size']}, medians of {settings['rounds']} rounds of {settings['steps']} steps",
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        "",
        f"{'':40}  ms a step  images/s   speed  30K steps h  peak GiB  first loss  first call s",
    ]
    for row in result["rows"]:
        peak = "" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**30:.2f}"
        lines.append(
            f"{row['name']:40}  {1000 * row['seconds_per_step']:9.1f}  {row['images_per_second']:8.2f}  "
            f"{row['speed']:5.2f}x  {30_000 * row['seconds_per_step'] / 3600:11.2f}  {peak:>8}  "
            f"{row['first_loss']:10.4f}  {row['first']:12.1f}"
        )
    return lines


def summary(result: dict) -> str:
    """Our fastest row, beside torchvision's rows in channels last."""
    seconds = {row["name"]: row["seconds_per_step"] for row in result["rows"]}
    best = min((name for name in seconds if name in OURS), key=seconds.__getitem__)
    ratios = [f"{seconds[name] / seconds[best]:.2f}x '{name}'" for name in (CHANNELS_LAST, BARE) if name in seconds]
    return f"ours at its fastest ('{best}'): {1000 * seconds[best]:.1f} ms a step, {', '.join(ratios)}"


def render(result: dict) -> str:
    """Format the measurements."""
    torchvision, ours = (result["multiply_adds"][name] / 1e9 for name in ("torchvision", "ours"))
    return "\n".join(
        [
            *table(result),
            "",
            f"torchvision's network has one convolution more, and its script trains an auxiliary head: "
            f"{torchvision:.1f} G multiply-adds an image, ours {ours:.1f} G, without that head's upsampling and loss; "
            "the rows 'channels last' and 'no auxiliary head' have channels last and their input on the device already",
            summary(result),
            GOALS[result["settings"]["device"]],
        ]
    )

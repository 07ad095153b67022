"""``deeplabv3 bench train``: one training step, ours beside that of torchvision's reference script.

The script is torchvision's references/segmentation/train.py with the options that its README gives for DeepLabV3:
auxiliary head and loss, SGD, its own mean over pixels, on a GPU float16 with a gradient scaler (``--amp``), and a loss
that is read in every step. Its input is what its loader returns, float32 and int64 in pageable memory; ours is uint8 in
pinned memory. All variants see the same images and labels, and are timed interleaved.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import cast

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
from deeplabv3.errors import UserError, require
from deeplabv3.model.cost import multiply_adds
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.step import ModelWithLoss, make_optimizer, training_step
from walkthrough.bench.timing import describe_machine, threads, time_interleaved

BACKBONES = {"resnet50": resnet50, "resnet101": resnet101}
"""Backbones of torchvision's DeepLabV3."""

ON_CPU = {"crop_size": 257, "batch_size": 2, "rounds": 3, "steps": 1}
"""Settings on the CPU, where the paper's would take an hour."""

GOALS = {
    "cpu": "goal on two cores: at least 1.0x torchvision's script",
    "cuda": "goal on one H200 with ResNet-101, output stride 16, crop 513, batch 16: at least 1.5x torchvision's "
    "script, and at most 30 ms a step",
}


@dataclass(frozen=True)
class Switches:
    """Options that make our step fast; each has a row of its own in the table."""

    channels_last: bool = False
    precision: str = "float32"
    fused: bool = False
    compiled: bool = False


OURS = {
    "ours": Switches(),
    "+ channels last": Switches(True),
    "+ bfloat16": Switches(True, "bfloat16"),
    "+ fused optimizer": Switches(True, "bfloat16", True),
    "+ torch.compile": Switches(True, "bfloat16", True, True),
}
"""Rows of the table; each adds one option to the row above it."""


@dataclass(frozen=True)
class TrainBench:
    """Settings of the benchmark. The network is the best of Table 5: ASPP, multi-grid and image pooling."""

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
        require(self.backbone in BACKBONES, "backbone", self.backbone, f"one of {', '.join(BACKBONES)}")
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
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # as the script and our trainer have it
        try:
            with threads(self.threads):
                images, labels = self.random_batch()
                variants = {
                    name: Variant(make, self.steps, self.device) for name, make in self._makers(images, labels).items()
                }
                timings = time_interleaved("training", variants, self.rounds, self.device)
                machine = describe_machine(self.device, ("torch", "torchvision"))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not hold the variants at batch {self.batch_size} and crop {self.crop_size}; "
                "lower --batch-size or --crop-size."
            ) from error
        finally:
            torch.backends.cudnn.benchmark = before
        return {
            "bench": "train",
            "settings": asdict(self),
            "machine": machine,
            "multiply_adds": self._multiply_adds(),
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
        makers: dict[str, Callable] = {
            "torchvision, its script": lambda: self.torchvision_step(images, labels, self.output_stride),
            "torchvision, channels last": lambda: self.torchvision_step(images, labels, self.output_stride, True),
        }
        if self.output_stride != 8:
            makers["torchvision, output stride 8"] = lambda: self.torchvision_step(images, labels, 8)
        for name, switches in OURS.items():
            if self.compiled or not switches.compiled:
                makers[name] = lambda switches=switches: self.our_step(images, labels, switches)
        return makers

    def torchvision_step(
        self, images: Tensor, labels: Tensor, output_stride: int, channels_last: bool = False
    ) -> Callable[[], Tensor]:
        """Return a function that takes one step of torchvision's script.

        With ``channels_last`` the input is on the device already, which is not timed.
        """
        torch.manual_seed(0)
        network = torchvision_network(self.backbone, output_stride).to(self.device).train()
        images, targets = normalize(images).contiguous(), labels.long()
        if channels_last:
            network.to(memory_format=torch.channels_last)
            images, targets = images.to(self.device, memory_format=torch.channels_last), targets.to(self.device)
        groups: list[dict] = [{"params": part.parameters()} for part in (network.backbone, network.classifier)]
        groups.append({"params": network.aux_classifier.parameters(), "lr": 0.1})
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30_000, power=0.9)
        amp = self.device == "cuda"
        scaler = torch.amp.GradScaler(self.device, enabled=amp)

        def step() -> Tensor:
            inputs, truth = images.to(self.device), targets.to(self.device)
            with torch.autocast(self.device, torch.float16 if amp else None, enabled=amp):
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
            group["fused"] = switches.fused
        model_with_loss: nn.Module = ModelWithLoss(model, config)
        if switches.compiled:
            model_with_loss = cast(nn.Module, torch.compile(model_with_loss, dynamic=False))
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


class Variant:
    """One way to train; a call takes ``steps`` steps. On a GPU it measures its own memory, without the other variants'.

    ``peak_memory`` is in bytes, weights included: the largest of all calls but the first, in which cuDNN still tries
    algorithms; None on the CPU.
    """

    def __init__(self, make: Callable[[], Callable[[], Tensor]], steps: int, device: str):
        self.steps, self.device = steps, device
        before = self._allocated()
        self._step = make()
        self._own = self._allocated() - before
        self.first_loss = math.nan
        self.peak_memory: int | None = None

    def __call__(self) -> None:
        before = self._allocated()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(self.steps):
            loss = self._step()
            if math.isnan(self.first_loss):
                self.first_loss = loss.item()
        if self.device != "cuda":
            return
        torch.cuda.synchronize()
        if self.peak_memory is None:
            self._own += self._allocated() - before  # momentum and gradients
            self.peak_memory = 0
        else:
            others = before - self._own
            self.peak_memory = max(self.peak_memory, torch.cuda.max_memory_allocated() - others)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0


def torchvision_network(backbone: str, output_stride: int) -> TorchvisionDeepLabV3:
    """torchvision's DeepLabV3 from its own parts, with random weights and the auxiliary head.

    torchvision's builder has output stride 8 only, with the rates (12, 24, 36); here rates follow the output stride.
    """
    dilated = {8: (False, True, True), 16: (False, False, True), 32: (False, False, False)}[output_stride]
    features = BACKBONES[backbone](weights=None, replace_stride_with_dilation=dilated)
    rates = tuple(rate * 16 // output_stride for rate in (6, 12, 18))
    return TorchvisionDeepLabV3(
        IntermediateLayerGetter(features, {"layer4": "out", "layer3": "aux"}),
        DeepLabHead(2048, len(VOC_CLASSES), rates),
        FCNHead(1024, len(VOC_CLASSES)),
    )


def reference_loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Loss of the script: cross-entropy of the head plus half that of the auxiliary head."""
    losses = {name: F.cross_entropy(logits, labels, ignore_index=VOID) for name, logits in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"]


def render(result: dict) -> str:
    """Format the measurements."""
    settings = TrainBench(**result["settings"] | {"device": "cpu"})  # measured on another machine, perhaps with a GPU
    torchvision, ours = (result["multiply_adds"][name] / 1e9 for name in ("torchvision", "ours"))
    lines = [
        f"training, {settings.backbone}, output stride {settings.output_stride}, crop {settings.crop_size}, batch "
        f"{settings.batch_size}, medians of {settings.rounds} rounds of {settings.steps} steps",
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        "",
        f"{'':30}  ms a step  images/s   speed  30K steps h  peak GiB  first loss  first call s",
    ]
    for row in result["rows"]:
        peak = "" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**30:.2f}"
        lines.append(
            f"{row['name']:30}  {1000 * row['seconds_per_step']:9.1f}  {row['images_per_second']:8.2f}  "
            f"{row['speed']:5.2f}x  {30_000 * row['seconds_per_step'] / 3600:11.2f}  {peak:>8}  "
            f"{row['first_loss']:10.4f}  {row['first']:12.1f}"
        )
    return "\n".join(
        [
            *lines,
            "",
            f"torchvision's network has one convolution more, and its script trains an auxiliary head: "
            f"{torchvision:.1f} G multiply-adds an image, ours {ours:.1f} G; its row 'channels last' has its input on "
            "the device already",
            GOALS[result["settings"]["device"]],
        ]
    )

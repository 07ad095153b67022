"""``deeplabv3 bench model``: the network alone, ours beside torchvision's and segmentation_models_pytorch's.

All run at output stride 8 with ASPP rates (12, 24, 36): torchvision's DeepLabV3 has no other.
"""

import statistics
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation

from deeplabv3.errors import UserError, require
from deeplabv3.model.cost import layer_costs
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.weights import from_torchvision
from walkthrough.bench.timing import Timing, clock, describe_machine, threads, time_interleaved

BACKBONES = ("resnet50", "resnet101")
"""Backbones of torchvision's DeepLabV3."""

SMP = "segmentation_models_pytorch"
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch")
REST = "the rest"
"""Operations of no part: pooling, batch norm of the stem, concatenation, upsampling."""


@dataclass(frozen=True)
class ModelBench:
    """Settings of the benchmark."""

    backbone: str = "resnet50"
    size: int = 513  # side of the square images, pixels
    batch_size: int = 1
    rounds: int = 9  # timings of each variant
    device: str = "cpu"
    threads: int = 0  # on the CPU; 0: PyTorch's own choice
    compiled: bool = True  # with rows for torch.compile
    bf16: bool = False  # with a row in bfloat16

    def __post_init__(self):
        require(self.backbone in BACKBONES, "backbone", self.backbone, f"one of {', '.join(BACKBONES)}")
        require(self.size >= 33, "size", self.size, "a number of pixels of at least 33")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number of at least 1")
        require(self.rounds >= 3, "rounds", self.rounds, "a whole number of at least 3, for a median")
        require(self.threads >= 0, "threads", self.threads, "a whole number, 0 for PyTorch's own choice")
        require(self.device in ("cpu", "cuda"), "device", self.device, "'cpu' or 'cuda'")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' is not there; choose --device cpu.")

    @property
    def training_batch(self) -> int:
        """Batch size of the training rows: at least 2, since image pooling has one value per image to normalize."""
        return max(2, self.batch_size)

    def run(self) -> dict:
        """Measure and return JSON values.

        ``forward`` and ``training`` are lists of timings; ``parts`` divides the time of our eager, channels-last
        forward pass among the parts of the network.
        """
        with threads(self.threads):
            torch.manual_seed(0)
            build = getattr(segmentation, f"deeplabv3_{self.backbone}")
            reference = build(weights=None, weights_backbone=None).eval()
            randomize_statistics(reference)
            reference.to(self.device)
            ours = from_torchvision(reference).to(self.device)
            images = torch.randn(self.batch_size, 3, self.size, self.size, device=self.device)
            with torch.inference_mode():
                forward = self._forward(reference, ours, images)
                parts = time_by_part(ours, images)
            training = self._training(reference, ours)
            return {
                "bench": "model",
                "settings": asdict(self),
                "machine": describe_machine(self.device, PACKAGES),
                "forward": [timing.as_json(forward[0]) for timing in forward],
                "training": [timing.as_json(training[0]) for timing in training],
                "parts": parts,
            }

    def _forward(self, reference: nn.Module, ours: DeepLabV3, images: Tensor) -> list[Timing]:
        networks: dict[str, nn.Module | None] = {
            "torchvision": reference,
            "torchvision, channels last": deepcopy(reference).to(memory_format=torch.channels_last),
            SMP: self._smp_model(),
            "ours": ours,
            "ours, channels last": deepcopy(ours).to(memory_format=torch.channels_last),
            "ours, optimize_for_inference()": optimize_for_inference(ours),
        }
        if self.compiled:
            channels_last = deepcopy(reference).to(memory_format=torch.channels_last)
            compiled = torch.compile(channels_last, options={"freezing": True})
            networks["torchvision, compiled"] = cast(nn.Module, compiled)
            networks["ours, optimize_for_inference(compiled=True)"] = optimize_for_inference(ours, compiled=True)
        calls = {
            name: partial(_logits, network.eval(), _padded(images) if name == SMP else images)
            for name, network in networks.items()
            if network is not None
        }
        if self.bf16:
            calls["the same in bf16"] = partial(_logits, optimize_for_inference(ours, self.compiled), images, bf16=True)
        timings = time_interleaved("forward", calls, self.rounds, self.device)
        expected = calls["torchvision"]()
        for timing in timings:
            if timing.name != SMP:  # its weights are its own
                timing.difference = (calls[timing.name]().float() - expected).abs().max().item()
        return timings

    def _training(self, reference: nn.Module, ours: DeepLabV3) -> list[Timing]:
        images = torch.randn(self.training_batch, 3, self.size, self.size, device=self.device)
        labels = torch.randint(0, 21, images[:, 0].shape, device=self.device)
        ours_last = deepcopy(ours).to(memory_format=torch.channels_last)
        networks: dict[str, nn.Module | None] = {
            "torchvision": reference,
            "torchvision, channels last": deepcopy(reference).to(memory_format=torch.channels_last),
            SMP: self._smp_model(),
            "ours": ours,
            "ours, channels last": ours_last,
        }
        calls: dict[str, Callable] = {}
        for name, network in networks.items():
            if network is not None:
                inputs = (_padded(images), _padded(labels)) if name == SMP else (images, labels)
                calls[name] = partial(_forward_and_backward, network.train(), *inputs)
        if self.bf16:
            calls["the same in bf16"] = partial(_forward_and_backward, ours_last, images, labels, bf16=True)
        return time_interleaved("forward + backward", calls, self.rounds, self.device)

    def _smp_model(self) -> nn.Module | None:
        """DeepLabV3 of segmentation_models_pytorch with random weights; None if it (extra ``bench``) is missing."""
        try:
            import segmentation_models_pytorch as smp
        except ImportError:
            return None
        network = smp.DeepLabV3(self.backbone, encoder_weights=None, encoder_output_stride=8, classes=21)
        return network.to(self.device)


def _logits(network: nn.Module, images: Tensor, bf16: bool = False) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        logits = network(images)
    return logits["out"] if isinstance(logits, dict) else logits


def _forward_and_backward(network: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> None:
    network.zero_grad(set_to_none=True)
    F.cross_entropy(_logits(network, images, bf16).float(), labels).backward()


def _padded(batch: Tensor) -> Tensor:
    """Pad height and width to multiples of 8, as SMP requires: 513 to 520, which still gives 65 features."""
    bottom, right = (-side % 8 for side in batch.shape[-2:])
    return F.pad(batch, (0, right, 0, bottom))


def randomize_statistics(network: nn.Module) -> None:
    """Draw batch norm statistics other than 0 and 1, so that a wrongly folded batch norm changes the logits."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.8, 1.2)


def time_by_part(model: DeepLabV3, images: Tensor, rounds: int = 5) -> list[dict]:
    """Multiply-adds and median seconds of each part of the network in a forward pass of ``images (N, 3, H, W)``."""
    device = images.device.type
    seconds: dict[str, list[float]] = {}
    starts: list[float] = []

    def enter(*_: object) -> None:
        starts.append(clock(device))

    def leave(name: str) -> Callable:
        return lambda *_: seconds.setdefault(name, []).append(clock(device) - starts.pop())

    model = deepcopy(model).eval().to(memory_format=torch.channels_last)
    for name, part in _parts(model):
        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave(name))
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first is a warm-up
            start = clock(device)
            model(images)
            seconds.setdefault(REST, []).append(clock(device) - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    costs = dict.fromkeys(medians, 0)
    for layer in layer_costs(model.config, *images.shape[2:]):
        parent = next((name for name in medians if f"{layer.name}.".startswith(f"{name}.")), REST)
        costs[parent] += layer.multiply_adds * len(images)
    medians[REST] = max(0.0, medians[REST] - sum(value for name, value in medians.items() if name != REST))
    return [{"part": name, "multiply_adds": costs[name], "seconds": medians[name]} for name in medians]


def _parts(model: DeepLabV3) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the backbone's blocks and the head's branches."""
    for parent in ("backbone", "head"):
        for name, part in getattr(model, parent).named_children():
            if isinstance(part, nn.ModuleList):
                yield from ((f"{parent}.{name}.{number}", branch) for number, branch in enumerate(part))
            elif not isinstance(part, nn.BatchNorm2d | nn.Dropout):
                yield f"{parent}.{name}", part


def render(result: dict) -> str:
    """Format the measurements: two tables of variants and one of parts."""
    settings = ModelBench(**result["settings"] | {"device": "cpu"})  # measured on another machine, perhaps with a GPU
    lines = [
        f"DeepLabv3, {settings.backbone}, output stride 8, {settings.size} x {settings.size}, "
        f"medians of {settings.rounds} rounds",
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
    ]
    titles = {
        "forward": f"forward, batch {settings.batch_size}",
        "training": f"forward + backward, batch {settings.training_batch}",
    }
    for key, title in titles.items():
        lines += ["", f"{title:30}  median s   ratio  first call s  logits differ by"]
        for row in result[key]:
            end = "" if row["difference"] is None else f"{row['difference']:16.1e}"
            lines.append(f"{row['name']:30}  {row['median']:8.3f}  {row['ratio']:6.2f}  {row['first']:12.1f}  {end}")
    if not any(row["name"] == SMP for row in result["forward"]):
        lines += ["", f"{SMP} is not installed: pip install -e '.[bench]' adds it to the comparison"]
    lines += ["", "ours, channels last, by parts   median s   share  multiply-adds G  G per second"]
    total = sum(part["seconds"] for part in result["parts"])
    for part in result["parts"]:
        billions, rate = part["multiply_adds"] / 1e9, part["multiply_adds"] / 1e9 / max(part["seconds"], 1e-9)
        lines.append(
            f"{part['part']:30}  {part['seconds']:8.3f}  {part['seconds'] / total:6.1%}  {billions:15.1f}  {rate:12.0f}"
        )
    return "\n".join(line.rstrip() for line in lines)

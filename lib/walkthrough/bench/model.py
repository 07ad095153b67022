"""``deeplabv3 bench model``: the network alone, ours against torchvision's and segmentation_models_pytorch's.

All run at output stride 8 with ASPP rates (12, 24, 36), the only way in which torchvision has its DeepLabV3.
"""

import statistics
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation

from deeplabv3.errors import UserError, require
from deeplabv3.model.cost import layer_costs
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.weights import from_torchvision
from walkthrough.bench.timing import Row, alternate, clock, describe_machine, threads

BACKBONES = ("resnet50", "resnet101")
"""What torchvision has a DeepLabV3 for."""

SMP = "segmentation_models_pytorch"
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch")
CHANNELS_LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class ModelBench:
    """What to compare: ``size`` is the side of the square images; ``threads`` 0 leaves PyTorch's own choice."""

    backbone: str = "resnet50"
    size: int = 513
    batch_size: int = 1
    rounds: int = 9
    device: str = "cpu"
    threads: int = 0
    compiled: bool = True
    bf16: bool = False

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
        """At least two: a batch of one leaves image pooling's batch norm nothing to normalize."""
        return max(2, self.batch_size)

    def run(self) -> dict:
        """Measure. Returns JSON values: ``forward`` and ``training`` are lists of rows, ``parts`` tells where the time
        of our eager forward pass, channels last, goes."""
        with threads(self.threads):
            torch.manual_seed(0)
            theirs = getattr(segmentation, f"deeplabv3_{self.backbone}")(weights=None, weights_backbone=None).eval()
            give_statistics(theirs)
            theirs.to(self.device)
            ours = from_torchvision(theirs).to(self.device)
            images = torch.randn(self.batch_size, 3, self.size, self.size, device=self.device)
            with torch.inference_mode():
                forward = self._forward(theirs, ours, images)
                parts = time_by_part(ours, images)
            training = self._training(theirs, ours)
            return {
                "bench": "model",
                "settings": asdict(self),
                "machine": describe_machine(self.device, PACKAGES),
                "forward": [row.as_json(forward[0]) for row in forward],
                "training": [row.as_json(training[0]) for row in training],
                "parts": parts,
            }

    def _forward(self, theirs: nn.Module, ours: DeepLabV3, images: Tensor) -> list[Row]:
        networks = {
            "torchvision": theirs,
            "torchvision, channels last": deepcopy(theirs).to(**CHANNELS_LAST),
            SMP: self._smp_model(),
            "ours": ours,
            "ours, channels last": deepcopy(ours).to(**CHANNELS_LAST),
            "ours, optimize_for_inference()": optimize_for_inference(ours),
        }
        if self.compiled:
            networks["torchvision, compiled"] = torch.compile(
                deepcopy(theirs).to(**CHANNELS_LAST), options={"freezing": True}
            )
            networks["ours, optimize_for_inference(compiled=True)"] = optimize_for_inference(ours, compiled=True)
        calls = {
            name: partial(_logits, network.eval(), _padded(images) if name == SMP else images)
            for name, network in networks.items()
            if network is not None
        }
        if self.bf16:
            calls["the same in bf16"] = partial(_logits, optimize_for_inference(ours, self.compiled), images, bf16=True)
        rows = alternate("forward", calls, self.rounds, self.device)
        expected = calls["torchvision"]()
        for row in rows:
            if row.name != SMP:  # its weights are its own
                row.difference = (calls[row.name]().float() - expected).abs().max().item()
        return rows

    def _training(self, theirs: nn.Module, ours: DeepLabV3) -> list[Row]:
        images = torch.randn(self.training_batch, 3, self.size, self.size, device=self.device)
        labels = torch.randint(0, 21, images[:, 0].shape, device=self.device)
        ours_last = deepcopy(ours).to(**CHANNELS_LAST)
        networks = {
            "torchvision": theirs,
            "torchvision, channels last": deepcopy(theirs).to(**CHANNELS_LAST),
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
        return alternate("forward + backward", calls, self.rounds, self.device)

    def _smp_model(self) -> nn.Module | None:
        """Its DeepLabV3 with random weights, where the package is installed (the extra ``bench``)."""
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


def _padded(batch_size: Tensor) -> Tensor:
    """Height and width raised to multiples of 8, which SMP insists on: 513 to 520, 65 features either way."""
    bottom, right = (-side % 8 for side in batch_size.shape[-2:])
    return F.pad(batch_size, (0, right, 0, bottom))


def give_statistics(network: nn.Module) -> None:
    """Statistics that are not 0 and 1, so that a batch norm folded wrongly would show in the logits."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.8, 1.2)


def time_by_part(model: DeepLabV3, images: Tensor, rounds: int = 5) -> list[dict]:
    """Where an eager forward pass spends its time: the multiply-adds and the median seconds of each part."""
    device = images.device.type
    seconds: dict[str, list[float]] = {}
    starts: list[float] = []

    def enter(*_: object) -> None:
        starts.append(clock(device))

    def leave(name: str) -> Callable:
        return lambda *_: seconds.setdefault(name, []).append(clock(device) - starts.pop())

    model = deepcopy(model).eval().to(**CHANNELS_LAST)
    for name, part in _parts(model):
        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave(name))
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            start = clock(device)
            model(images)
            seconds.setdefault(REST, []).append(clock(device) - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    costs = dict.fromkeys(medians, 0)
    for layer in layer_costs(model.config, *images.shape[2:]):
        part = next((name for name in medians if f"{layer.name}.".startswith(f"{name}.")), REST)
        costs[part] += layer.multiply_adds * len(images)
    medians[REST] = max(0.0, medians[REST] - sum(value for name, value in medians.items() if name != REST))
    return [{"part": name, "multiply_adds": costs[name], "seconds": medians[name]} for name in medians]


REST = "the rest"
"""What belongs to no part: pooling, batch norm of the stem, concatenation, upsampling."""


def _parts(model: DeepLabV3) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of the backbone and the branches of the head, by name."""
    for room in ("backbone", "head"):
        for name, part in getattr(model, room).named_children():
            if isinstance(part, nn.ModuleList):
                yield from ((f"{room}.{name}.{number}", branch) for number, branch in enumerate(part))
            elif not isinstance(part, nn.BatchNorm2d | nn.Dropout):
                yield f"{room}.{name}", part


def render(result: dict) -> str:
    """The measurements as text: two tables of variants and one of parts."""
    settings = ModelBench(**result["settings"] | {"device": "cpu"})  # a record may come from another machine
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
    lines += ["", "where ours, channels last, goes median s   share  multiply-adds G  G per second"]
    total = sum(part["seconds"] for part in result["parts"])
    for part in result["parts"]:
        billions, rate = part["multiply_adds"] / 1e9, part["multiply_adds"] / 1e9 / max(part["seconds"], 1e-9)
        lines.append(
            f"{part['part']:30}  {part['seconds']:8.3f}  {part['seconds'] / total:6.1%}  {billions:15.1f}  {rate:12.0f}"
        )
    return "\n".join(line.rstrip() for line in lines)

"""``deeplabv3 bench convolutions``: time and error of every convolution of our network in a training step, in bfloat16.

Wrong kernels have shipped for new GPUs. Rounding to bfloat16 alone gives a relative error of 2e-3.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplabv3.device import compute_settings
from deeplabv3.model.atrous import BACKBONES
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.bench.timing import describe_machine, threads, time_interleaved
from walkthrough.bench.train import TrainBench

PASSES = ("forward", "input gradient", "weight gradient")
FAULT = 1e-2
"""A relative error above it is a fault."""


@dataclass(frozen=True)
class ConvolutionBench(TrainBench):
    """Settings of the benchmark; ``steps`` convolutions are timed together."""

    backbones: ClassVar[Collection[str]] = BACKBONES

    def run(self) -> dict:
        """Measure and return JSON values: a row for each kind of convolution, the slowest first."""
        torch.manual_seed(0)
        with threads(self.threads), compute_settings("float32", one_size=True):
            rows = [{"count": count, **self._row(*kind)} for kind, count in self._kinds().items()]
            machine = describe_machine(self.device, ("torch", "torchvision"))
        rows.sort(key=lambda row: -row["count"] * sum(row["seconds"].values()))
        return {"bench": "convolutions", "settings": asdict(self), "machine": machine, "rows": rows}

    def _kinds(self) -> Counter:
        """Number of times that each kind is computed: shapes of input and weight, stride, padding, rate, groups."""
        kinds: Counter = Counter()

        def count(conv: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
            names = ("stride", "padding", "dilation", "groups")
            settings: list[Any] = [getattr(conv, name) for name in names]
            kinds[(tuple(inputs[0].shape), tuple(conv.get_parameter("weight").shape), *settings)] += 1

        with torch.device("meta"):
            model = DeepLabV3(self.config).eval()
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_hook(count)
            model(torch.empty(self.batch_size, 3, self.crop_size, self.crop_size))
        return kinds

    def _row(self, shape: tuple, weight_shape: tuple, stride: tuple, padding: tuple, rate: tuple, groups: int) -> dict:
        last: Any = {"device": self.device, "dtype": torch.bfloat16, "memory_format": torch.channels_last}
        image, weight = (torch.randn(sizes).to(**last) for sizes in (shape, weight_shape))  # (N, C, H, W), (K, C, h, w)

        def forward(image: Tensor, weight: Tensor) -> Tensor:
            return F.conv2d(image, weight, None, stride, padding, rate, groups)

        gradient = torch.randn_like(forward(image, weight))  # of the output, (N, K, H / stride, W / stride)

        def compute(name: str, image: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
            if name == "forward":
                return forward(image, weight)
            mask = [name == wanted for wanted in (*PASSES[1:], "bias gradient")]
            settings = (None, stride, padding, rate, False, [0, 0], groups, mask)
            gradients = torch.ops.aten.convolution_backward(gradient, image, weight, *settings)
            return gradients[mask.index(True)]

        inputs = (image, weight, gradient)
        exact = [tensor.float() for tensor in inputs]
        errors = {}
        for name in PASSES:
            expected = compute(name, *exact)  # in IEEE float32
            errors[name] = ((compute(name, *inputs).float() - expected).norm() / expected.norm()).item()

        def repeat(name: str) -> None:
            for _ in range(self.steps):
                compute(name, *inputs)

        calls = {name: partial(repeat, name) for name in PASSES}
        timings = time_interleaved(f"{shape} {weight_shape}", calls, self.rounds, self.device)
        return {
            "input": list(shape),
            "weight": list(weight_shape),
            "stride": stride[0],
            "rate": rate[0],
            "flops": 2 * gradient.numel() * weight[0].numel(),
            "seconds": {timing.name: timing.median / self.steps for timing in timings},
            "errors": errors,
        }


def summary(result: dict) -> str:
    """Milliseconds of each pass of a step, the largest relative error, and how many are faults."""
    rows = result["rows"]
    ms = {name: 1000 * sum(row["count"] * row["seconds"][name] for row in rows) for name in PASSES}
    errors = [error for row in rows for error in row["errors"].values()]
    faults = sum(not error <= FAULT for error in errors)
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in ms.items())
    return f"{times}, sum {sum(ms.values()):.1f} ms; relative errors up to {max(errors):.1e}, {faults} above {FAULT}"


def render(result: dict) -> str:
    """Format the measurements."""
    lines = [", ".join(f"{name} {value}" for name, value in result["machine"].items()), ""]
    for row in result["rows"]:
        passes = (
            f"{name} {1000 * seconds:.3f} ms {row['flops'] / seconds / 1e12:.1f} TFLOP/s off {row['errors'][name]:.1e}"
            for name, seconds in row["seconds"].items()
        )
        kind = f"{row['input']} {row['weight']} stride {row['stride']} rate {row['rate']}"
        lines.append(f"{row['count']:3} x {kind}: {', '.join(passes)}")
    return "\n".join([*lines, "", summary(result)])

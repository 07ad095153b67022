"""``deeplabv3 bench``: speeds, compared side by side."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError


def add(verbs: Any) -> None:
    bench = verbs.add_parser("bench", help="compare speeds side by side", description="Compare speeds side by side.")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")

    kind = kinds.add_parser("model", help="the network alone: ours, torchvision's, segmentation_models_pytorch's")
    kind.set_defaults(verb=bench_model)
    kind.add_argument("--backbone", choices=("resnet50", "resnet101"), default="resnet50")
    kind.add_argument("--size", type=int, default=513, help="side of the square pictures, in pixels (513)")
    kind.add_argument("--batch", type=int, default=1, help="pictures at once (1; training takes at least 2)")
    kind.add_argument("--rounds", type=int, default=9, help="turns of every contender; the median counts (9)")
    kind.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it compiles for a minute)")
    _common(kind)

    kind = kinds.add_parser("evaluate", help="evaluation of whole pictures: ours, and torchvision's reference loop")
    kind.set_defaults(verb=bench_evaluate)
    kind.add_argument("--weights", default="", metavar="CHECKPOINT", help="by default ResNet-50 with random weights")
    kind.add_argument("--data", default="", metavar="ROOT", help="VOC's layout (default: embedded pictures, enlarged)")
    kind.add_argument("--pictures", type=int, default=8, help="how many of the list val (8)")
    kind.add_argument("--output-stride", type=int, default=8, help="8, or another with --weights")
    kind.add_argument("--padding", choices=("tight", "crop"), default="tight")
    kind.add_argument("--batch", type=int, default=1, help="pictures at once, for ours (1; a GPU wants 16)")
    kind.add_argument("--rounds", type=int, default=5, help="turns of every contender; the median counts (5)")
    kind.add_argument("--workers", type=int, default=0, help="processes that read for torchvision's loop (0)")
    _common(kind)


def _common(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kind.add_argument("--threads", type=int, default=0, help="threads on the CPU (0: PyTorch's own choice)")
    kind.add_argument("--bf16", action="store_true", help="bfloat16 too, whose logits are no longer the same")
    kind.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there as well")


def bench_model(options: argparse.Namespace) -> int:
    from deeplabv3.bench.model import ModelBench, render

    names = ("backbone", "size", "batch", "rounds", "device", "threads", "bf16")
    values = {name: getattr(options, name) for name in names}
    return _measure(lambda: ModelBench(**values, compiled=not options.no_compile), render, options.json)


def bench_evaluate(options: argparse.Namespace) -> int:
    from deeplabv3.bench.evaluate import EvaluationBench, render

    names = (
        "weights", "data", "pictures", "output_stride", "padding", "batch", "rounds", "device", "threads", "workers",
        "bf16",
    )  # fmt: skip
    values = {name: getattr(options, name) for name in names}
    return _measure(lambda: EvaluationBench(**values), render, options.json)


def _measure(make: Callable[[], Any], render: Callable[[dict], str], file: Path | None) -> int:
    from deeplabv3.training.checkpoint import write_atomically

    if file and not file.parent.is_dir():
        raise UserError(f"folder {file.parent} for --json does not exist; make it first.")
    result = make().run()
    print(render(result))
    if file:
        write_atomically(file, json.dumps(result, indent=1) + "\n")
        print(f"written to {file}")
    return 0

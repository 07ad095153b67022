"""``deeplabv3 bench``: speeds, compared side by side."""

import argparse
import json
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
    kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kind.add_argument("--threads", type=int, default=0, help="threads on the CPU (0: PyTorch's own choice)")
    kind.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it compiles for a minute)")
    kind.add_argument("--bf16", action="store_true", help="bfloat16 too, whose logits are no longer the same")
    kind.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there as well")


def bench_model(options: argparse.Namespace) -> int:
    from deeplabv3.bench.model import ModelBench, render
    from deeplabv3.training.checkpoint import write_atomically

    if options.json and not options.json.parent.is_dir():
        raise UserError(f"folder {options.json.parent} for --json does not exist; make it first.")
    names = ("backbone", "size", "batch", "rounds", "device", "threads", "bf16")
    values = {name: getattr(options, name) for name in names}
    result = ModelBench(**values, compiled=not options.no_compile).run()
    print(render(result))
    if options.json:
        write_atomically(options.json, json.dumps(result, indent=1) + "\n")
        print(f"written to {options.json}")
    return 0

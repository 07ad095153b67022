"""``deeplabv3 export``: write a network as ONNX, as a torch.export program, or its weights in float16."""

import argparse
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from walkthrough.commands.options import add_command, load_network, weights_option
from walkthrough.paths import workspace


def add(subparsers: Any) -> None:
    text = "write a network for other tools, for any batch and image size, and check it"
    parser = add_command(subparsers, "export", main, text)
    parser.add_argument(
        "kind",
        choices=("onnx", "torch", "weights"),
        help="ONNX, a program for torch.export.load, or float16 weights for predict",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a name that ends in .onnx, .pt2 or .safetensors")
    weights_option(parser)
    parser.add_argument("--output-stride", type=int, help="by default the one that the network was trained at")


def main(options: argparse.Namespace) -> int:
    from deeplabv3.evaluation.export import CHECKED, export_onnx, export_torch, export_weights

    if options.file.is_file() and options.file.resolve().is_relative_to((workspace() / "runs").resolve()):
        raise UserError(f"{options.file} belongs to a run, which needs it to go on; name another file.")
    model, classes = load_network(options.weights, options)
    if options.output_stride is not None:
        model.set_output_stride(options.output_stride)
    if options.kind == "weights":
        export_weights(model, options.file, classes)
        print(f"{options.file}: {options.file.stat().st_size / 1e6:.1f} MB")
        return 0
    about = {"classes": classes, "images": "RGB, uint8", "output_stride": model.output_stride}
    export = export_onnx if options.kind == "onnx" else export_torch
    difference, largest = export(model, options.file, about)
    print(
        f"{options.file}: {options.file.stat().st_size / 1e6:.1f} MB, images (batch, height, width, 3) to logits "
        f"(batch, {len(classes)}, height, width), output stride {model.output_stride}\n"
        f"largest difference from the network on {len(CHECKED)} other sizes: {difference:.2g} "
        f"(largest logit {largest:.3g})"
    )
    return 0

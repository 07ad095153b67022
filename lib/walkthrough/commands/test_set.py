"""``deeplabv3 predict-test``: label files of the test set, as VOC's evaluation server takes them (Table 7)."""

import argparse
from pathlib import Path
from typing import Any

from walkthrough.commands.options import (
    add_command,
    load_network,
    note_tiles,
    prepare,
    strategy_of,
    strategy_options,
    weights_option,
)


def add(subparsers: Any) -> None:
    text = "write the archive of the test set that VOC's evaluation server takes (Table 7)"
    parser = add_command(subparsers, "predict-test", main, text)
    weights_option(parser, required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="VOCdevkit with the test images")
    parser.add_argument("--output", type=Path, default=Path("submission"), metavar="DIR", help="default: submission")
    strategy_options(parser)
    parser.add_argument(
        "--padding", choices=("crop", "tight"), default="crop",
        help="to the paper's crop of 513, or tight: for networks whose training saw no padding (crop)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (1)")


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.errors import require
    from walkthrough.experiments.submission import FOLDER, refuse_other_classes, submit, test_images, weights_hash

    require(options.batch_size >= 1, "batch_size", options.batch_size, "a whole number of at least 1")
    images = test_images(options.data)
    strategy = strategy_of(options, options.padding)
    model, classes = load_network(options.weights, options)
    refuse_other_classes(classes)
    note_tiles(model.config, strategy)
    network = prepare(model, strategy)
    options.output.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(images), desc="predicting", unit="image") as bar:
        archive = submit(network, images, strategy, options.output, weights_hash(model), bar.update, options.batch_size)
    print(f"{len(images)} label files in {options.output / FOLDER}\nto upload: {archive}")
    return 0

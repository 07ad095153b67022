"""``deeplabv3 submit``: what VOC's evaluation server takes for the test set (Table 7)."""

import argparse
from pathlib import Path
from typing import Any

from walkthrough.commands.options import make_folder, ready, strategy_of, strategy_options, weights_option


def add(verbs: Any) -> None:
    text = "write the VOC evaluation server's folder for the test set"
    verb = verbs.add_parser("submit", help=text, description=text[0].upper() + text[1:] + " (Table 7).")
    verb.set_defaults(verb=main)
    weights_option(verb)
    verb.add_argument("--data", type=Path, required=True, metavar="ROOT", help="VOCdevkit with the test images")
    verb.add_argument("--output", type=Path, default=Path("submission"), metavar="DIR", help="default: submission")
    strategy_options(verb)
    verb.add_argument(
        "--padding", choices=("crop", "tight"), default="crop",
        help="to the paper's crop of 513, or tight: for networks whose training saw no padding (crop)",
    )  # fmt: skip
    verb.add_argument("--batch-size", type=int, default=1, help="images at once (1)")


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.errors import require
    from deeplabv3.evaluation.submission import FOLDER, refuse_other_classes, submit, test_images, weights_hash
    from walkthrough.commands.options import load_network

    require(options.batch_size >= 1, "batch_size", options.batch_size, "a whole number of at least 1")
    images = test_images(options.data)
    settings = strategy_of(options, options.padding)
    model, classes = load_network(options.weights)
    refuse_other_classes(classes)
    network = ready(model, settings)
    make_folder(options.output)
    with tqdm(total=len(images), desc="predicting", unit="image") as bar:
        archive = submit(network, images, settings, options.output, weights_hash(model), bar.update, options.batch_size)
    print(f"{len(images)} label files in {options.output / FOLDER}\nto upload: {archive}")
    return 0

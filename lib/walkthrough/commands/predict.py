"""``deeplabv3 predict``: segment a user's own images."""

import argparse
import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

from deeplabv3.config import MAX_SIZE
from deeplabv3.errors import UserError, require
from walkthrough.commands.options import (
    add_command,
    load_network,
    prepare,
    strategy_of,
    strategy_options,
    weights_option,
)

JPEG_LIMIT = 65500


def add(subparsers: Any) -> None:
    text = "segment your own images: overlays, label files and each class's share of the pixels"
    parser = add_command(subparsers, "predict", main, text)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or patterns such as 'trip/*.jpg'")
    weights_option(parser)
    parser.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    strategy_options(parser)
    parser.add_argument(
        "--max-size", type=int, default=MAX_SIZE, metavar="PIXELS",
        help=f"the network sees larger images reduced to this ({MAX_SIZE}); results have the image's own size",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.evaluation.predict import SHARES, find_images, output_names, refuse_to_overwrite
    from deeplabv3.files import write_atomically

    require(options.max_size >= 1, "max_size", options.max_size, "a whole number of at least 1")
    images = find_images(options.images, options.output)
    names = output_names(images)
    refuse_to_overwrite(images, names, options.output)
    strategy = strategy_of(options, padding="tight")  # a small image should not be mostly padding
    model, classes = load_network(options.weights)
    network = prepare(model, strategy), classes, strategy
    options.output.mkdir(parents=True, exist_ok=True)
    rows, failed = [], 0
    bar = tqdm(zip(images, names, strict=True), total=len(images), unit="image", desc="predicting",
               disable=len(images) == 1)  # fmt: skip
    try:
        with bar:
            for path, name in bar:
                try:
                    row, files = _predict(path, name, network, options.max_size)
                except UserError as error:  # a broken image does not hold the others up
                    failed += 1
                    tqdm.write(f"deeplabv3: {error}", file=sys.stderr)
                    continue
                for suffix, content in files.items():
                    write_atomically(options.output / (name + suffix), content)
                rows.append(row)
                tqdm.write(_line(row, classes), file=sys.stdout)
    except KeyboardInterrupt:
        print(f"deeplabv3: interrupted; {len(rows)} of {len(images)} images are done.", file=sys.stderr)
        return 130
    finally:
        if rows:
            write_atomically(options.output / SHARES, _table(rows))
    if rows:
        print(f"overlays, label files and {SHARES} of {len(rows)} of {len(images)} images in {options.output}")
    return 1 if failed else 0


def _predict(path: Path, name: str, network: tuple, max_size: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Segment one image; its row of the table, and its files by the suffixes of their names."""
    import numpy as np
    from PIL import Image

    from deeplabv3.data.voc import palette, palette_png
    from deeplabv3.evaluation.predict import ABOUT, CLASSES, OVERLAY, class_shares, predict_photo, read_photo
    from walkthrough.figures.overlay import overlay

    model, classes, strategy = network
    start = time.monotonic()
    photo = read_photo(path)  # (H, W, 3) uint8
    if max(photo.shape) > JPEG_LIMIT:
        raise UserError(f"image {path} is {max(photo.shape)} pixels long, a JPEG {JPEG_LIMIT} at most; cut it.")
    prediction = predict_photo(model, photo, strategy, max_size)  # (H, W) class indices
    label_values = np.array(list(classes), dtype=np.uint8)
    colors = palette()[label_values]
    painted = Image.fromarray(overlay(photo, prediction, colors, list(classes.values())))
    jpeg = io.BytesIO()
    painted.save(jpeg, "JPEG", quality=92, subsampling=0)
    files = {CLASSES: palette_png(label_values[prediction]), OVERLAY: jpeg.getvalue()}
    about = (str(path), name, photo.shape[1], photo.shape[0], round(time.monotonic() - start, 2))
    shares = class_shares(prediction, len(classes)).round(2)
    columns = map(_column, classes.values())
    return dict(zip(ABOUT, about, strict=True)) | dict(zip(columns, shares, strict=True)), files


def _column(name: str) -> str:
    """The column of a class; never equal to one of the columns about the image."""
    return f"{name} %"


def _line(row: dict[str, Any], classes: dict[int, str]) -> str:
    """One line about an image: its classes, the largest share first."""
    shares = sorted(((row[_column(name)], name) for name in classes.values()), reverse=True)
    present = ", ".join(f"{name} {share:.1f} %" for share, name in shares if share >= 0.05)
    return f"{row['file']}  {row['width']} x {row['height']}  {row['seconds']:.2f} s  {present}"


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

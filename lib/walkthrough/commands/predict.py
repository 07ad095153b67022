"""``deeplabv3 predict``: your own images."""

import argparse
import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError, require
from deeplabv3.evaluation.predict import ABOUT, CLASSES, MAX_SIZE, OVERLAY, SHARES
from deeplabv3.files import writing
from walkthrough.commands.options import make_folder, ready, strategy_of, strategy_options, weights_option

JPEG_LIMIT = 65500


def add(verbs: Any) -> None:
    text = "segment your own images: overlays, label files and each class's share of the pixels"
    verb = verbs.add_parser("predict", help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=main)
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or patterns such as 'trip/*.jpg'")
    weights_option(verb)
    verb.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    strategy_options(verb)
    verb.add_argument(
        "--longest", type=int, default=MAX_SIZE, metavar="PIXELS",
        help=f"the network sees larger images reduced to this ({MAX_SIZE}); results have the image's own size",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.evaluation.predict import find_images, output_names, refuse_to_overwrite
    from deeplabv3.files import write_atomically

    require(options.longest >= 1, "longest", options.longest, "a whole number of at least 1")
    images = find_images(options.images, options.output)
    names = output_names(images)
    refuse_to_overwrite(images, names, options.output)
    settings = strategy_of(options, padding="tight")  # what a image is padded with should not be most of it
    from walkthrough.commands.options import load_network

    model, classes = load_network(options.weights)
    network = ready(model, settings), classes, settings
    make_folder(options.output)
    rows, broken = [], 0
    bar = tqdm(zip(images, names, strict=True), total=len(images), unit="image", desc="predicting",
               disable=len(images) == 1)  # fmt: skip
    try:
        with bar:
            for path, name in bar:
                try:
                    row, files = _predict(path, name, network, options.longest)
                except UserError as error:  # the good ones among many should not wait for the one that is not
                    broken += 1
                    tqdm.write(f"deeplabv3: {error}", file=sys.stderr)
                    continue
                with writing(options.output):
                    for end, content in files.items():
                        write_atomically(options.output / (name + end), content)
                rows.append(row)
                tqdm.write(_line(row, classes), file=sys.stdout)
    except KeyboardInterrupt:
        print(f"deeplabv3: interrupted; {len(rows)} of {len(images)} images are done.", file=sys.stderr)
        return 130
    finally:
        if rows:
            with writing(options.output):
                write_atomically(options.output / SHARES, _table(rows))
    if rows:
        print(f"overlays, label files and {SHARES} of {len(rows)} of {len(images)} images in {options.output}")
    return 1 if broken else 0


def _predict(path: Path, name: str, network: tuple, longest: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Predict one image: its row of the table, and its files by the end of their names."""
    import numpy as np
    from PIL import Image

    from deeplabv3.data.voc import palette, palette_png
    from deeplabv3.evaluation.predict import class_shares, predict_photo, read_photo
    from walkthrough.figures import segmentation

    model, classes, settings = network
    began = time.monotonic()
    photo = read_photo(path)
    if max(photo.shape) > JPEG_LIMIT:
        raise UserError(f"image {path} is {max(photo.shape)} pixels long, a JPEG {JPEG_LIMIT} at most; cut it.")
    found = predict_photo(model, photo, settings, longest)
    values = np.array(list(classes), dtype=np.uint8)
    painted = Image.fromarray(segmentation.overlay(photo, found, palette()[values], list(classes.values())))
    buffer = io.BytesIO()
    painted.save(buffer, "JPEG", quality=92, subsampling=0)
    files = {CLASSES: palette_png(values[found]), OVERLAY: buffer.getvalue()}
    about = (str(path), name, photo.shape[1], photo.shape[0], round(time.monotonic() - began, 2))
    shares = class_shares(found, len(classes)).round(2)
    columns = map(_column, classes.values())
    return dict(zip(ABOUT, about, strict=True)) | dict(zip(columns, shares, strict=True)), files


def _column(name: str) -> str:
    """A class's column, which is never one of those about the image."""
    return f"{name} %"


def _line(row: dict[str, Any], classes: dict[int, str]) -> str:
    """What is in a image, the largest share first."""
    shares = sorted(((row[_column(name)], name) for name in classes.values()), reverse=True)
    found = ", ".join(f"{name} {share:.1f} %" for share, name in shares if share >= 0.05)
    return f"{row['file']}  {row['width']} x {row['height']}  {row['seconds']:.2f} s  {found}"


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

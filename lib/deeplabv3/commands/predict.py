"""``deeplabv3 predict``: your own pictures."""

import argparse
import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

from deeplabv3.commands.network import make_folder, ready, strategy_of, strategy_options, weights_option
from deeplabv3.errors import UserError, require

SHARES = "shares.csv"
JPEG_LIMIT = 65500


def add(verbs: Any) -> None:
    text = "segment your own pictures: overlays, label files and each class's share of the pixels"
    verb = verbs.add_parser("predict", help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=main)
    verb.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders, or patterns such as 'trip/*.jpg'")
    weights_option(verb)
    verb.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    strategy_options(verb)
    verb.add_argument(
        "--longest", type=int, default=513, metavar="PIXELS",
        help="the network sees larger pictures reduced to this (513); results have the picture's own size",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.evaluation.predict import find_pictures, load_weights, output_names
    from deeplabv3.training.checkpoint import write_atomically

    require(options.longest >= 1, "longest", options.longest, "a whole number of at least 1")
    pictures = find_pictures(options.pictures, options.output)
    settings = strategy_of(options, padding="tight")  # what a picture is padded with should not be most of it
    model, classes = load_weights(options.weights)
    network = ready(model, settings), classes, settings
    make_folder(options.output)
    rows, broken = [], 0
    bar = tqdm(zip(pictures, output_names(pictures), strict=True), total=len(pictures), unit="picture",
               desc="predicting", disable=len(pictures) == 1)  # fmt: skip
    try:
        with bar:
            for path, name in bar:
                try:
                    rows.append(_predict(path, options.output / name, network, options.longest))
                except UserError as error:  # the good ones among many should not wait for the one that is not
                    broken += 1
                    tqdm.write(f"deeplabv3: {error}", file=sys.stderr)
                else:
                    tqdm.write(_line(rows[-1], classes), file=sys.stdout)
    except KeyboardInterrupt:
        print(f"deeplabv3: interrupted; {len(rows)} of {len(pictures)} pictures are done.", file=sys.stderr)
        return 130
    finally:
        if rows:
            write_atomically(options.output / SHARES, _table(rows))
    if rows:
        print(f"overlays, label files and {SHARES} in {options.output}")
    return 1 if broken else 0


def _predict(path: Path, target: Path, network: tuple, longest: int) -> dict[str, Any]:
    """Predict one picture and write its files; its row of the table."""
    import numpy as np
    from PIL import Image

    from deeplabv3 import panels
    from deeplabv3.data.voc import palette
    from deeplabv3.evaluation.predict import CLASSES, OVERLAY, class_shares, palette_png, predict_photo, read_photo
    from deeplabv3.training.checkpoint import write_atomically

    model, classes, settings = network
    began = time.monotonic()
    photo = read_photo(path)
    if max(photo.shape) > JPEG_LIMIT:
        raise UserError(f"picture {path} is {max(photo.shape)} pixels long, a JPEG {JPEG_LIMIT} at most; cut it.")
    found = predict_photo(model, photo, settings, longest)
    values = np.array(list(classes), dtype=np.uint8)
    painted = Image.fromarray(panels.overlay(photo, found, palette()[values], list(classes.values())))
    buffer = io.BytesIO()
    try:
        painted.save(buffer, "JPEG", quality=92, subsampling=0)
        write_atomically(target.with_name(target.name + CLASSES), palette_png(values[found]))
        write_atomically(target.with_name(target.name + OVERLAY), buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"results of picture {path} cannot be written to {target.parent} ({error}); make room."
        ) from error
    return {
        "file": str(path),
        "results": target.name,
        "width": photo.shape[1],
        "height": photo.shape[0],
        "seconds": round(time.monotonic() - began, 2),
        **dict(zip(classes.values(), class_shares(found, len(classes)).round(2), strict=True)),
    }


def _line(row: dict[str, Any], classes: dict[int, str]) -> str:
    """What is in a picture, the largest share first."""
    shares = sorted(((row[name], name) for name in classes.values() if row[name] >= 0.05), reverse=True)
    found = ", ".join(f"{name} {share:.1f} %" for share, name in shares)
    return f"{row['file']}  {row['width']} x {row['height']}  {row['seconds']:.2f} s  {found}"


def _table(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

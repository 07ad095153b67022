"""``deeplabv3 predict``: segment a user's own images."""

import argparse
import io
import sys
import time
from pathlib import Path
from typing import Any

from deeplabv3.config import MAX_SIZE, PRETRAINED_MAX_SIZE
from deeplabv3.errors import UserError, is_out_of_memory, require
from walkthrough.commands.options import (
    add_command,
    load_network,
    note_tiles,
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
        "--max-size", type=int, metavar="PIXELS",
        help=f"the network sees larger images reduced to this ({MAX_SIZE}; the one in the library "
        f"{PRETRAINED_MAX_SIZE}); results have the image's own size. With --tile it sees them at their own size",
    )  # fmt: skip


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.data.reading import conversion
    from deeplabv3.files import abandoned, write_atomically
    from deeplabv3.signals import sigterm_interrupts
    from walkthrough.commands.prediction_files import (
        RESULTS,
        SHARES,
        find_images,
        output_names,
        refuse_to_overwrite,
        unreadable_images,
    )
    from walkthrough.commands.shares import Shares
    from walkthrough.experiments.submission import weights_hash
    from walkthrough.figures.overlay import written_names

    if options.tile and options.max_size is not None:
        raise UserError("--max-size has no effect with --tile, which leaves images at their size; give one of them.")
    default = PRETRAINED_MAX_SIZE if options.weights in (None, "pretrained") else MAX_SIZE
    max_size = default if options.max_size is None else options.max_size
    require(max_size >= 1, "max_size", max_size, "a whole number of at least 1")
    images = find_images(options.images, options.output)
    names = output_names(images)
    refuse_to_overwrite(images, names, options.output)
    strategy = strategy_of(options, padding="tight")  # a small image should not be mostly padding
    model, classes = load_network(options.weights, options)
    if left_out := unreadable_images(options.images):
        kinds = ", ".join(sorted({file.suffix for file in left_out}))
        text = f"{len(left_out)} images of a kind that cannot be read ({kinds}) are left out"
        print(f"deeplabv3: {text}; {conversion(left_out[0])}", file=sys.stderr)
    written = written_names(classes)
    for (value, name), text in zip(classes.items(), written, strict=True):
        if text != name:
            print(f"deeplabv3: no font here can write {name!r}; overlays show its value {value}.", file=sys.stderr)
    note_tiles(model.config, strategy)
    network = prepare(model, strategy), classes, written, strategy
    options.output.mkdir(parents=True, exist_ok=True)
    for leftover in abandoned(options.output):
        if leftover.name.endswith((*(Path(end).suffix for end in RESULTS), ".csv")):
            leftover.unlink(missing_ok=True)
    no_part = ("command", "images", "output", "weights")
    made_with = {name: str(value) for name, value in vars(options).items() if name not in no_part}
    table = Shares(options.output, dict(zip(names, images, strict=True)), classes.values(),
                   [made_with, weights_hash(model)])  # fmt: skip
    if table.lines:
        print(f"{len(table.lines)} of {len(images)} images were done before")
    todo = [(path, name) for path, name in zip(images, names, strict=True) if name not in table.lines]
    failed = 0
    bar = tqdm(todo, unit="image", desc="predicting", disable=len(images) == 1)
    try:
        with sigterm_interrupts(), bar:
            for path, name in bar:
                try:
                    row, files = _predict(path, name, network, max_size)
                except (UserError, MemoryError, RuntimeError) as error:  # an image does not hold the others up
                    if is_out_of_memory(error):
                        error = UserError(f"image {path} takes more memory than there is; give --tile 1025.")
                    if not isinstance(error, UserError):
                        raise
                    failed += 1
                    tqdm.write(f"deeplabv3: {error}", file=sys.stderr)
                    continue
                for suffix, content in files.items():
                    write_atomically(options.output / (name + suffix), content)
                table.add(row)
                tqdm.write(_line(row, classes), file=sys.stdout)
    except KeyboardInterrupt as stop:  # or SIGTERM
        done = f"{len(table.lines)} of {len(images)} images are done"
        print(f"deeplabv3: interrupted; {done}, and the same command goes on.", file=sys.stderr)
        return 1 if str(stop) else 130
    finally:
        table.close()
    if table.lines:
        print(f"overlays, label files and {SHARES} of {len(table.lines)} of {len(images)} images in {options.output}")
    return 1 if failed else 0


def _predict(path: Path, name: str, network: tuple, max_size: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Segment one image; its row of the table, and its files by the suffixes of their names."""
    import numpy as np
    from PIL import Image

    from deeplabv3.data.reading import palette, read_image
    from deeplabv3.data.voc import palette_png
    from deeplabv3.evaluation.predict import class_shares, predict_photo
    from walkthrough.commands.prediction_files import ABOUT, CLASSES, OVERLAY
    from walkthrough.commands.shares import column
    from walkthrough.figures.overlay import overlay

    model, classes, written, strategy = network
    start = time.monotonic()
    photo = read_image(path)  # (H, W, 3) uint8
    if max(photo.shape) > JPEG_LIMIT:
        raise UserError(f"image {path} is {max(photo.shape)} pixels long, a JPEG {JPEG_LIMIT} at most; cut it.")
    prediction = predict_photo(model, photo, strategy, max_size)  # (H, W) class indices
    label_values = np.array(list(classes), dtype=np.uint8)
    colors = palette()[label_values]
    painted = Image.fromarray(overlay(photo, prediction, colors, written))
    jpeg = io.BytesIO()
    painted.save(jpeg, "JPEG", quality=92, subsampling=0)
    # numpy's own indexing would take eight bytes a pixel.
    values = np.asarray(Image.fromarray(prediction).point([*label_values, *[0] * (256 - len(classes))]))
    files = {CLASSES: palette_png(values), OVERLAY: jpeg.getvalue()}
    about = (str(path), name, photo.shape[1], photo.shape[0], round(time.monotonic() - start, 2))
    shares = class_shares(prediction, len(classes)).round(2)
    columns = map(column, classes.values())
    return dict(zip(ABOUT, about, strict=True)) | dict(zip(columns, shares, strict=True)), files


def _line(row: dict[str, Any], classes: dict[int, str]) -> str:
    """One line about an image: its classes, the largest share first."""
    from walkthrough.commands.shares import column

    shares = sorted(((row[column(name)], name) for name in classes.values()), reverse=True)
    present = ", ".join(f"{name} {share:.1f} %" for share, name in shares if share >= 0.05)
    return f"{row['file']}  {row['width']} x {row['height']}  {row['seconds']:.2f} s  {present}"

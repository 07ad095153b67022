"""``deeplabv3 data import``: an export of another tool into VOC's layout, with lists and a profile."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.errors import UserError, require
from walkthrough.commands.options import add_command

if TYPE_CHECKING:
    from walkthrough.datasets.importing.export import Export
    from walkthrough.datasets.importing.writer import Account

KINDS = ("masks", "coco", "labelme", "cvat", "cityscapes", "yolo-seg")

MAX_NAMED = 10
"""Number of files that are named where there are many."""


def add(parts: Any) -> None:
    """Add the command below ``data``."""
    parser = add_command(
        parts, "import", main, "bring masks, COCO, labelme, CVAT, Cityscapes or YOLO into VOC's layout"
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="the unpacked export: a folder, or COCO's JSON file"
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder of the new data set")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, if not in SOURCE")
    parser.add_argument(
        "--classes", metavar="NAMES",
        help="only these, in this order; all others are background. Of COCO, voc: VOC's 20 classes by VOC's names",
    )  # fmt: skip
    parser.add_argument(
        "--map", action="append", default=[], metavar="NAME=NEW",
        help="rename or merge a class, or make it background or void; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--color", action="append", default=[], metavar="COLOR=NAME",
        help="of masks: class of a gray value (255=crack) or color (255,0,0=crack; 0,0,0=void); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--val-share", type=float, metavar="SHARE", help="draw lists (0.2, unless the export has its own)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the lists")
    parser.add_argument(
        "--group-by", metavar="REGEX",
        help=r"keep images on one side whose names have the same match, such as '^(.*)_\d+$' for frames; or 'folder'",
    )  # fmt: skip
    parser.add_argument("--skip-empty", action="store_true", help="leave out images without an object")
    parser.add_argument(
        "--min-pixels", type=int, default=0, metavar="N", help="leave out images whose objects have fewer pixels"
    )
    parser.add_argument("--copy", action="store_true", help="copy images (default: hard links where possible)")
    parser.add_argument("--dry-run", action="store_true", help="show classes and counts, write nothing")


def main(options: argparse.Namespace) -> int:
    """Run the command."""
    from walkthrough.datasets.importing import KINDS as READERS
    from walkthrough.datasets.importing import writer
    from walkthrough.datasets.importing.export import Settings
    from walkthrough.datasets.importing.lists import Split
    from walkthrough.datasets.importing.profile import refuse_other_classes, write_profile
    from walkthrough.profiles import profile_names, require_name

    if options.color and options.kind != "masks":
        raise UserError("--color is for masks; rename the classes of other kinds with --map.")
    require(options.min_pixels >= 0, "--min-pixels", options.min_pixels, "a whole number of at least 0")
    names = [name for part in (options.classes or "").split(",") if (name := part.strip())]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--classes names {repeated[0]!r} twice; give it once.")
    settings = Settings(
        options.source,
        options.images,
        tuple(names),
        _pairs(options.map, "--map"),
        _pairs(options.color, "--color"),
        options.skip_empty,
        options.min_pixels,
    )
    split = Split(options.val_share, options.seed, options.group_by)
    if not settings.source.exists():
        raise UserError(f"source {settings.source} does not exist; check the path.")
    if settings.images and not settings.images.is_dir():
        what = "is not a folder" if settings.images.exists() else "does not exist"
        raise UserError(f"--images {settings.images} {what}; check the path.")
    own_name = options.target.resolve().name
    require_name(own_name, "TARGET")
    if (known := own_name.lower()) in profile_names():
        raise UserError(f"target {options.target} has the name of the project's profile {known}; choose another.")
    writer.refuse_target(options.target, settings, split)
    try:
        export = READERS[options.kind](settings)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{options.source} is no export of kind {options.kind!r} that can be read ({error!r})."
        ) from error
    for note in export.notes:
        print(note)
    print("classes: " + ", ".join(f"{value} {name}" for value, name in export.classes.items()))
    refuse_other_classes(options.target, export.classes)
    if options.dry_run:
        print(f"{len(export.items):,} images would be imported into {options.target}; nothing is written")
        _print_others(export, options.kind)
        return 0
    account = writer.write(export, options.target, settings, split, options.copy)
    train = len(account.lists["train"])
    profile = write_profile(options.target, options.kind, export.classes, account.sizes, train)
    _print_account(account, options.target)
    _print_others(export, options.kind)
    print(f"profile {profile}\nnext:")
    quoted = shlex.quote(str(profile))
    print(f"  deeplabv3 data check --profile {quoted}")
    print(f"  deeplabv3 train --profile {quoted} --init-from pretrained --new-classes")
    return 1 if export.refused else 0


def _pairs(items: list[str], option: str) -> dict[str, str]:
    """``NAME=NEW`` items; the last ``=`` separates, and one name may be given once."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, new = (part.strip() for part in item.rpartition("="))
        if not (name and equals and new):
            raise UserError(f"{option} {item!r} should read NAME=NEW.")
        if name in found:
            raise UserError(f"{option} names {name!r} twice; give one value.")
        found[name] = new
    return found


def _print_account(account: "Account", target: Path) -> None:
    counts, files = {name: len(names) for name, names in account.lists.items()}, account.files
    total = len({name for names in account.lists.values() for name in names})
    print(f"{total:,} images imported into {target}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()))
    print(f"  {account.about_lists}")
    print(f"  images: {files['linked']:,} hard links, {files['copied']:,} copies, {files['kept']:,} there already")
    print(f"  labels: {files['drawn']:,} drawn, {files['there']:,} there already")
    if account.empty:
        print(
            f"  {account.empty:,} of them have no object and are background throughout (--skip-empty leaves them out)"
        )
    if account.skipped:
        print(f"{account.skipped:,} images without an object, or with too few pixels of them, left out")


def _print_others(export: "Export", kind: str) -> None:
    """Print the images without a label and the files that were refused."""
    if export.unlabeled:
        names = _named([path.name for path in export.unlabeled])
        print(f"images without a label in the export are left out, {len(export.unlabeled):,}: {names}")
        if kind != "cityscapes":  # whose test images have none, and those of train_extra without gtCoarse
            print("  to import them, label them (one without an object needs an entry as well) and export again")
    if export.refused:
        print(f"{len(export.refused):,} files refused:")
        for file, reason in list(export.refused.items())[:MAX_NAMED]:
            print(f"  {file}: {reason}")
        if len(export.refused) > MAX_NAMED:
            print(f"  and {len(export.refused) - MAX_NAMED:,} more")


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more

"""``deeplabv3 data``: download VOC 2012, SBD and ImageNet weights, import other tools' exports, check a data set."""

import argparse
import os
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from walkthrough.commands import import_data
from walkthrough.commands.options import add_profile_command, profile_of


def add(subparsers: Any) -> None:
    text = "download VOC 2012, SBD or ImageNet weights; import labels of other tools; check a data set"
    data = subparsers.add_parser("data", help=text, description=text[0].upper() + text[1:] + ".")
    parts = data.add_subparsers(required=True, metavar="get|import|check")
    get = add_profile_command(
        parts, "get", get_main, "download VOC 2012, SBD's labels (and make trainaug), or a profile's ImageNet weights"
    )
    get.add_argument("what", choices=("voc", "sbd", "weights"), nargs="+")
    get.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of VOC (default: $DEEPLABV3_DATA, else data/VOCdevkit)"
    )
    get.add_argument(
        "--url", action="append", default=[], help="download from here instead of the known hosts; may be repeated"
    )
    get.add_argument("--archive", type=Path, metavar="FILE", help="an archive that is on this machine already")
    import_data.add(parts)
    check = add_profile_command(
        parts, "check", check_main, "check a data set: lists, files, sizes, label values, classes"
    )
    check.add_argument(
        "root", nargs="?", type=Path, metavar="ROOT", help="a data set in VOC's layout (default: the profile's)"
    )


def get_main(options: argparse.Namespace) -> int:
    from deeplabv3.model.weights import download_imagenet_weights
    from walkthrough import paths
    from walkthrough.datasets import prepare

    if (options.url or options.archive) and options.what not in (["voc"], ["sbd"]):
        raise UserError("--url and --archive stand for one archive; give them with 'voc' alone or with 'sbd' alone.")
    root = options.root or Path(os.environ.get("DEEPLABV3_DATA") or paths.workspace() / "VOCdevkit")
    for what in options.what:
        if what == "weights":
            for backbone in sorted(set(profile_of(options).model.backbones.values())):
                print(f"{what}: {download_imagenet_weights(backbone, paths.workspace() / 'weights')}")
            continue
        get, source = {"voc": (prepare.get_voc, prepare.VOC), "sbd": (prepare.get_sbd, prepare.SBD)}[what]
        folder = get(root, options.url, options.archive)
        print(f"{what}: {folder}")
        archive = folder.parent / source.file
        if archive.is_file():
            print(f"{what}: {archive} is no longer needed and may be deleted")
    return 0


def check_main(options: argparse.Namespace) -> int:
    from deeplabv3.config import VOC_CLASSES
    from walkthrough.datasets.check import check

    if options.root and not options.profile:
        print(f"warning  classes: VOC's {len(VOC_CLASSES)}; --profile names others")
        lines = check(options.root, dict(enumerate(VOC_CLASSES)))
    else:
        options.data = options.root
        profile = profile_of(options)
        data = profile.data
        used = (data.train_list, data.val_list)
        lines = check(profile.data_root(), data.class_map(), data.unlisted_labels, used, data.void)
    errors = 0
    for line in lines:
        print(f"{line.level:>7}  {line.text}", flush=True)
        errors += line.level == "error"
    print(f"{errors} of these lines are errors" if errors else "no errors")
    return 1 if errors else 0

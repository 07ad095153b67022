"""Unpacks the small VOC and SBD of tiny_sbd and waits at the place that is given, to be killed there.

``kill_get.py FOLDER ROOT PLACE``: the archives are files in FOLDER; PLACE is ``unpack`` or ``convert``.
"""

import sys
import tarfile
import time
from pathlib import Path

import tiny_sbd

from walkthrough.datasets import prepare

folder, root, place = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
calls = 0


def waiting(function):
    def wait(*arguments, **options):
        global calls
        calls += 1
        if calls == 4:
            print("here", flush=True)
            time.sleep(600)
        return function(*arguments, **options)

    return wait


if place == "unpack":
    tarfile.TarFile.extract = waiting(tarfile.TarFile.extract)
else:
    prepare.atomic_path = waiting(prepare.atomic_path)
archives = {name: (folder / name).read_bytes() for name in ("VOC", "SBD")}
with tiny_sbd.instead_of_the_real_ones(archives, {"VOC": (), "SBD": ()}):
    prepare.get_voc(root, archive=folder / "VOC")
    prepare.get_sbd(root, archive=folder / "SBD")

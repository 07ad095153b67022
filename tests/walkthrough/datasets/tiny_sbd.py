"""VOC 2012 and SBD in miniature, packed as the real archives are: a few tiny images, the same folders and formats."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array

from deeplabv3.data import voc
from walkthrough.datasets import prepare
from walkthrough.datasets.download import Source

TRAIN = [f"2007_{number:06}" for number in range(4)]
VAL = [f"2007_{number:06}" for number in range(10, 13)]
MORE = [f"2010_{number:06}" for number in range(5)]
"""Images of VOC that SBD alone labels."""

SBD_LISTS = {"train": [TRAIN[0], VAL[0], *MORE[:3]], "val": [VAL[1], TRAIN[1], *MORE[3:]]}
COUNTS = {"train": 4, "val": 3, "trainval": 7, "trainaug": 9, "test": 2}
VOC_VALUE, SBD_VALUE = 8, 12
"""The object's class in VOC's labels and in SBD's, which tells them apart."""


def label_of(name: str, value: int) -> np.ndarray:
    """An object of class ``value`` in a corner that depends on the name."""
    label = np.zeros((12, 15 + int(name[-1])), dtype=np.uint8)
    label[:6, : 5 + int(name[-1])] = value
    return label


def _image(name: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(int(name[-1])).integers(0, 256, (*label_of(name, 0).shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _mat(name: str) -> bytes:
    buffer = io.BytesIO()
    boundaries = np.empty((20, 1), dtype=object)
    for number in range(20):
        boundaries[number, 0] = csc_array(label_of(name, 1).astype(bool))
    values = {"Boundaries": boundaries, "Segmentation": label_of(name, SBD_VALUE), "CategoriesPresent": SBD_VALUE}
    savemat(buffer, {"GTcls": values}, do_compression=True)
    return buffer.getvalue()


def _tar(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def voc_archive() -> bytes:
    lists = {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}
    files = {f"JPEGImages/{name}.jpg": _image(name) for name in TRAIN + VAL + MORE}
    files |= {f"SegmentationClass/{name}.png": voc.palette_png(label_of(name, VOC_VALUE)) for name in TRAIN + VAL}
    files |= {f"ImageSets/Segmentation/{name}.txt": "\n".join(names).encode() for name, names in lists.items()}
    files["Annotations/2007_000000.xml"] = b"<annotation/>"
    return _tar({f"VOCdevkit/VOC2012/{name}": data for name, data in files.items()}, "w")


def sbd_archive() -> bytes:
    names = [name for names in SBD_LISTS.values() for name in names]
    files = {f"cls/{name}.mat": _mat(name) for name in names} | {f"img/{name}.jpg": _image(name) for name in names}
    files |= {"inst/2010_000000.mat": b"instances", "cls/._2010_000000.mat": b"a Macintosh was here"}
    files |= {f"{name}.txt": "\n".join(names).encode() for name, names in SBD_LISTS.items()}
    return _tar({f"benchmark_RELEASE/dataset/{name}": data for name, data in files.items()}, "w:gz")


@contextmanager
def instead_of_the_real_ones(archives: dict[str, bytes], urls: dict[str, tuple[str, ...]]) -> Iterator[None]:
    """The miniatures' checksums, hosts and counts in the place of VOC's and SBD's."""
    sources = {
        name: Source(real.file, f"md5:{hashlib.md5(archives[name]).hexdigest()}", len(archives[name]), urls[name])
        for name, real in (("VOC", prepare.VOC), ("SBD", prepare.SBD))
    }
    with mock.patch.multiple(prepare, **sources), mock.patch.dict(voc.VOC_COUNTS, COUNTS):
        yield

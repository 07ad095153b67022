"""VOC 2012 and SBD, fetched and put together to ``trainaug``, the 10,582 images that the paper trains on (Section 4).

SBD labels 11,355 images of VOC, some of VOC's val list among them, with coarser borders. ``trainaug`` is VOC's train
list with VOC's own labels, and everything in SBD that is not in VOC's val list.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.data import voc
from deeplabv3.data.download import Source, fetch, require_room, say, unpack, verified
from deeplabv3.errors import UserError
from deeplabv3.files import writing

VOC = Source(
    file="VOCtrainval_11-May-2012.tar",
    checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
    size=1_999_639_040,
    urls=(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "http://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
        "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar",
        "https://web.archive.org/web/2020id_/"
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    ),
    unpacked=2_000_000_000,
)

_SBD_PAGE = "www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
SBD = Source(
    file="benchmark.tgz",
    checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
    size=1_419_539_633,
    urls=(
        f"https://{_SBD_PAGE}",
        f"http://{_SBD_PAGE}",
        f"https://web.archive.org/web/2020id_/https://{_SBD_PAGE}",
    ),
    unpacked=100_000_000,
)


def get_voc(root: Path, urls: Sequence[str] = (), archive: Path | None = None) -> Path:
    """VOC 2012's folder below ``root``, fetched and unpacked unless it is there.

    ``urls`` are asked instead of the known hosts; ``archive`` is the file itself, from wherever it came.
    """
    folder = _voc_folder(root)
    if folder.is_dir() and any(folder.iterdir()):
        verify_voc(folder)
        return folder
    unpack(_archive(VOC, folder.parent, urls, archive), folder, "VOCdevkit/VOC2012", verify_voc)
    return folder


def get_sbd(root: Path, urls: Sequence[str] = (), archive: Path | None = None) -> Path:
    """VOC 2012's folder below ``root``, with SBD's labels and the list ``trainaug`` added unless they are there."""
    folder = _voc_folder(root)
    if not folder.is_dir():
        raise UserError(
            f"SBD's labels lie beside VOC's, and {folder} does not exist; run 'deeplabv3 data get voc' first."
        )
    verify_voc(folder)
    if not _has_trainaug(folder):
        names = convert(_archive(SBD, folder.parent, urls, archive), folder)
        write_trainaug(folder, names)
    return folder


def _voc_folder(root: Path) -> Path:
    """Where VOC 2012 lies, or is to lie, so that the reader finds it below ``root``."""
    try:
        return voc.find_root(root)
    except UserError:
        below = {"VOC2012": "", "VOCdevkit": "VOC2012"}.get(root.name, "VOCdevkit/VOC2012")
        return root / below


def _archive(source: Source, folder: Path, urls: Sequence[str], archive: Path | None) -> Path:
    if archive is None:
        return fetch(source, folder, urls)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, source.unpacked, source.file)
    return verified(archive, source)


def verify_voc(folder: Path) -> None:
    """That VOC's own lists have their counts, and each image and label is there."""
    for name in ("train", "val", "trainval"):
        try:
            found, expected = len(_opened(folder, name)), voc.VOC_COUNTS[name]
        except UserError as error:
            raise UserError(f"{folder} is not the whole of VOC 2012: {error}") from error
        if found != expected:
            raise UserError(
                f"{folder} is not the whole of VOC 2012: its list {name!r} has {found:,} names, not {expected:,}; name "
                "another folder with --root, or move this one away."
            )


def _opened(folder: Path, list_name: str) -> voc.VOCData:
    """A list's images and labels, which are all there."""
    return voc.VOCData(folder, list_name, {0: "background"})


def _has_trainaug(folder: Path) -> bool:
    try:
        names = _opened(folder, "trainaug").names
    except UserError:
        return False
    return len(names) == voc.VOC_COUNTS["trainaug"] and not set(names) & set(voc.read_list(folder, "val"))


def convert(archive: Path, folder: Path) -> list[str]:
    """Write SBD's labels as palette PNGs into ``SegmentationClassAug``; the names in SBD's own two lists.

    The archive is read once, from front to end; labels that are there already are not made again. Images that VOC
    does not have (with the whole of VOC 2012 there are none) are written beside VOC's.
    """
    labels, images = folder / "SegmentationClassAug", folder / "JPEGImages"
    names = []
    with writing(labels):
        labels.mkdir(exist_ok=True)
    for path, member in _members(archive):
        kind, target = path.parent.name, labels / f"{path.stem}.png"
        if path.name in ("train.txt", "val.txt"):
            names += member.read().decode().split()
        elif not re.fullmatch(r"\d{4}_\d{6}", path.stem):
            continue
        elif kind == "cls" and path.suffix == ".mat" and not target.is_file():
            _write_whole(target, voc.palette_png(_label(member.read(), path.name, archive)))
        elif kind == "img" and path.suffix == ".jpg" and not (images / path.name).is_file():
            _write_whole(images / path.name, member.read())
    return names


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, io.BufferedReader]]:
    """The plain files of a ``.tgz`` archive, of which nothing but the last part of a name is used as one."""
    with (
        open(archive, "rb") as file,
        tarfile.open(fileobj=file, mode="r|gz") as tar,
        tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc="SBD", disable=None) as bar,
    ):
        for member in tar:
            if member.isfile():
                yield PurePosixPath(member.name), tar.extractfile(member)
            bar.update(file.tell() - bar.n)


def _label(data: bytes, name: str, archive: Path) -> np.ndarray:
    """The class numbers ``(H, W)`` uint8 in one of SBD's MATLAB files."""
    from scipy.io import loadmat

    try:
        values = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0]
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"label {name} in {archive} is damaged ({error}); fetch the archive again.") from error
    if values.ndim != 2 or values.dtype != np.uint8 or values.max() >= len(config.VOC_CLASSES):
        raise UserError(f"label {name} in {archive} holds something else than VOC's classes; fetch the archive again.")
    return values


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, without waiting for the disk: there are thousands."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        partial.write_bytes(data)
        os.replace(partial, path)


def write_trainaug(folder: Path, sbd_names: Sequence[str]) -> None:
    """Write the list ``trainaug`` from VOC's lists and the names in SBD's; a missing image or label is an error."""
    train, val = voc.read_list(folder, "train"), voc.read_list(folder, "val")
    names = sorted({*train, *sbd_names} - set(val))
    for name in names:
        voc.image_path(folder, name, "trainaug")
        voc.label_path(folder, name, "trainaug")
    if len(names) != voc.VOC_COUNTS["trainaug"]:
        paper = voc.VOC_COUNTS["trainaug"]
        say(f"trainaug has {len(names):,} images here and {paper:,} in the paper; these are not SBD's usual lists.")
    path = folder / "ImageSets" / "Segmentation" / "trainaug.txt"
    _write_whole(path, "".join(f"{name}\n" for name in names).encode())

"""VOC 2012 and SBD, downloaded and merged to ``trainaug``, the 10,582 images that the paper trains on (Section 4).

SBD labels 11,355 images of VOC, some of VOC's val list among them, with coarser borders. ``trainaug`` is VOC's train
list with VOC's own labels, and everything in SBD that is not in VOC's val list.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.data import voc
from deeplabv3.data.lists import Files
from deeplabv3.errors import UserError, attempt
from deeplabv3.files import atomic_path, write_atomically
from walkthrough.datasets.download import Source, fetch, require_free_space, say, unpack, verified

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
    """Return VOC 2012's folder at or below ``root``; it is downloaded and unpacked unless it is there.

    ``urls`` replace the known hosts; ``archive`` is the archive itself, where it is on this machine already.
    """
    folder = _voc_folder(root)
    if folder.is_dir() and any(folder.iterdir()):
        verify_voc(folder)
    else:
        unpack(_archive(VOC, folder.parent, urls, archive), folder, "VOCdevkit/VOC2012", verify_voc)
    return folder


def get_sbd(root: Path, urls: Sequence[str] = (), archive: Path | None = None) -> Path:
    """Return VOC 2012's folder; SBD's labels and the list ``trainaug`` are added unless they are there."""
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
    """Folder of VOC 2012, or the one to put it into, where :func:`voc.find_root` finds it from ``root``."""
    below = {"VOC2012": "", "VOCdevkit": "VOC2012"}.get(root.name, "VOCdevkit/VOC2012")
    return attempt(voc.find_root, root)[0] or root / below


def _archive(source: Source, folder: Path, urls: Sequence[str], archive: Path | None) -> Path:
    if archive is None:
        return fetch(source, folder, urls)
    folder.mkdir(parents=True, exist_ok=True)
    require_free_space(folder, source.unpacked, source.file)
    return verified(archive, source)


def verify_voc(folder: Path) -> None:
    """Require VOC's own lists to have their counts, and each of their images and labels to be there."""
    for list_name in ("train", "val", "trainval"):
        names, error = attempt(_names, folder, list_name)
        if names is None:
            raise UserError(f"{folder} is not the whole of VOC 2012: {error}")
        if len(names) != voc.VOC_COUNTS[list_name]:
            raise UserError(
                f"{folder} is not the whole of VOC 2012: its list {list_name!r} has {len(names):,} names, not "
                f"{voc.VOC_COUNTS[list_name]:,}; name another folder with --root, or move this one away."
            )


def _names(folder: Path, list_name: str) -> list[str]:
    """Names of a list; a missing image or label is a :class:`UserError`."""
    return voc.VOCData(folder, list_name, {0: "background"}).names


def _has_trainaug(folder: Path) -> bool:
    names = attempt(_names, folder, "trainaug")[0] or []
    return len(names) == voc.VOC_COUNTS["trainaug"] and not set(names) & set(voc.read_list(folder, "val"))


def convert(archive: Path, folder: Path) -> list[str]:
    """Write SBD's labels as palette PNGs to ``SegmentationClassAug``; return the names in SBD's own two lists.

    The archive is read once, from front to end; labels that are there already are not written again. Images that VOC
    does not have (the whole of VOC 2012 has all) are written beside VOC's.
    """
    labels, images = folder / "SegmentationClassAug", folder / "JPEGImages"
    names: list[str] = []
    for path, member in _members(archive):
        kind, target = path.parent.name, labels / f"{path.stem}.png"
        if path.name in ("train.txt", "val.txt"):
            names += member.read().decode().split()
        elif not re.fullmatch(r"\d{4}_\d{6}", path.stem):
            continue
        elif kind == "cls" and path.suffix == ".mat" and not target.is_file():
            label = voc.palette_png(_label(member.read(), path.name, archive))
            with atomic_path(target) as partial:  # not synchronized with the disk: there are thousands
                partial.write_bytes(label)
        elif kind == "img" and path.suffix == ".jpg" and not (images / path.name).is_file():
            write_atomically(images / path.name, member.read())
    return names


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yield name and content of the files in a ``.tgz`` archive; callers use no more than the name's last two parts."""
    with (
        open(archive, "rb") as file,
        tarfile.open(fileobj=file, mode="r|gz") as tar,
        tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc="SBD", disable=None) as bar,
    ):
        for member in tar:
            if member.isfile() and (content := tar.extractfile(member)):
                yield PurePosixPath(member.name), content
            bar.update(file.tell() - bar.n)


def _label(data: bytes, name: str, archive: Path) -> np.ndarray:
    """Class numbers ``(H, W)`` uint8 in one of SBD's MATLAB files."""
    from scipy.io import loadmat

    try:
        values = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0]
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"label {name} in {archive} is damaged ({error}); fetch the archive again.") from error
    if values.ndim != 2 or values.dtype != np.uint8 or values.max() >= len(config.VOC_CLASSES):
        raise UserError(f"label {name} in {archive} holds something else than VOC's classes; fetch the archive again.")
    return values


def write_trainaug(folder: Path, sbd_names: Sequence[str]) -> None:
    """Write the list ``trainaug`` from VOC's lists and the names in SBD's; a missing image or label is an error."""
    train, val = voc.read_list(folder, "train"), voc.read_list(folder, "val")
    names = sorted({*train, *sbd_names} - set(val))
    files = Files(folder)
    for name in names:
        files.image(name, "trainaug")
        files.label(name, "trainaug")
    paper = voc.VOC_COUNTS["trainaug"]
    if len(names) != paper:
        say(f"trainaug has {len(names):,} images here and {paper:,} in the paper; these are not SBD's usual lists.")
    path = folder / "ImageSets" / "Segmentation" / "trainaug.txt"
    write_atomically(path, "".join(f"{name}\n" for name in names))

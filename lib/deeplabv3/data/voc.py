"""Data sets in VOC's layout: images, palette labels with 255 = void, and lists of names (Section 4).

``JPEGImages/NAME.jpg`` (or ``.png``), ``SegmentationClass/NAME.png`` and ``ImageSets/Segmentation/LIST.txt``. Names
whose label is not in ``SegmentationClass`` are looked up in ``SegmentationClassAug``, where SBD's labels are: the 1,464
images that VOC labeled itself keep VOC's finer labels in ``trainaug``.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from deeplabv3.config import VOID
from deeplabv3.errors import UserError

VOC_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}
"""Images in each of VOC 2012's lists, and in the one that SBD's labels enlarge (Section 4)."""

MEMORY_SHARE = 0.25
"""Share of the free memory that decoded images may take; training and other programs need the rest."""

CGROUP = Path("/sys/fs/cgroup")
"""Folder of a container's memory limit."""


@cache
def palette() -> np.ndarray:
    """VOC's 256 colors, ``(256, 3)`` uint8: the bits of the class number spread over red, green and blue."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for label in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    colors.setflags(write=False)  # all callers share it
    return colors


def colorize(label: np.ndarray) -> np.ndarray:
    """Class numbers ``(H, W)`` as colors ``(H, W, 3)`` uint8: VOC's palette, where void is a light gray."""
    return palette()[label]


def palette_png(values: np.ndarray) -> bytes:
    """Label values ``(H, W)`` uint8 as a PNG file in VOC's palette, as VOC's own labels are."""
    image = Image.fromarray(values).convert("P")  # grays keep their numbers as palette entries
    image.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def find_root(root: Path | str) -> Path:
    """Return the folder that holds ``ImageSets``: ``root`` itself or a ``VOC2012`` below it."""
    root = Path(root)
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    state = "has no ImageSets/Segmentation folder" if root.is_dir() else "does not exist"
    raise UserError(f"data root {root} {state}; name a folder in VOC's layout, such as VOCdevkit/VOC2012.")


def read_list(root: Path, list_name: str) -> list[str]:
    """Return the image names of a list, in order; a list that is missing or empty is a :class:`UserError`."""
    path = root / "ImageSets" / "Segmentation" / f"{list_name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"list {path} does not exist (lists there: {known}); choose one of those or add it.")
    text = path.read_text(encoding="utf-8", errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise UserError(f"list {path} is not a text file in UTF-8; write one image name a line into it.")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise UserError(f"list {path} is empty; write one image name a line into it.")
    return names


def image_path(root: Path, name: str, list_name: str) -> Path:
    """Return the file of a list's image; a missing one is a :class:`UserError`."""
    folder = root / "JPEGImages"
    for suffix in (".jpg", ".png"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise UserError(f"image {folder / name}.jpg of list {list_name!r} is missing; restore it or its list.")


def label_path(root: Path, name: str, list_name: str) -> Path:
    """Return the file of a list's label, VOC's own before SBD's; a missing one is a :class:`UserError`."""
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        if (root / folder / f"{name}.png").is_file():
            return root / folder / f"{name}.png"
    path = root / "SegmentationClass" / f"{name}.png"
    raise UserError(f"label {path} of list {list_name!r} is missing; restore it or take the name off the list.")


def allowance() -> int:
    """Bytes of decoded images that this process may keep in memory."""
    free = psutil.virtual_memory().available
    limit = CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        # psutil sees the memory of the whole machine; a container is killed at its own limit.
        free = min(free, int(limit.read_text()) - int((CGROUP / "memory.current").read_text()))
    # Each process that torchrun starts on this machine has its own copy.
    return int(MEMORY_SHARE * free) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class VOCData:
    """Images and labels of one list.

    ``classes`` maps the label values in the PNG files to names, in the order of the model's classes. Any other value
    than these and 255 is an error that names the file, or void where ``unlisted_labels`` is ``"ignore"``. ``cache``
    keeps decoded images in memory; None keeps them if the whole list fits into :func:`allowance`.
    """

    def __init__(
        self,
        root: Path | str,
        list_name: str,
        classes: dict[int, str],
        cache: bool | None = False,
        unlisted_labels: str = "error",
    ):
        self.root = find_root(root)
        self.list_name = list_name
        self.class_names = tuple(classes.values())
        self._lookup = np.full(256, VOID if unlisted_labels == "ignore" else -1, dtype=np.int16)
        self._lookup[list(classes)] = np.arange(len(classes))
        self._lookup[VOID] = VOID
        self.names = read_list(self.root, list_name)
        self._files = [
            (image_path(self.root, name, list_name), label_path(self.root, name, list_name)) for name in self.names
        ]
        self.cached = self.decoded_bytes() <= allowance() if cache is None else cache
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getstate__(self) -> dict:
        """State for a spawned process, which keeps no images in memory: it would have a second copy of them."""
        return self.__dict__ | {"cached": False, "_cache": {}}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(H, W, 3)`` uint8 and label ``(H, W)`` uint8 of class indices, 255 where void."""
        if index in self._cache:
            return self._cache[index]
        image_path, label_path = self._files[index]
        image, label = read_image(image_path), self._read_label(label_path)
        if image.shape[:2] != label.shape:
            raise UserError(
                f"label {label_path} is {label.shape[1]} x {label.shape[0]} pixels and its image "
                f"{image.shape[1]} x {image.shape[0]}; they must have one size: replace one of them."
            )
        if self.cached:
            self._cache[index] = (image, label)
        return image, label

    def decoded_bytes(self) -> int:
        """Estimated size of all decoded images and labels in bytes: four a pixel, by the headers of 100 files."""
        sample = self._files[:: -(-len(self) // 100)]
        pixels = 0
        for path, _ in sample:
            with readable(path), Image.open(path) as image:
                pixels += image.width * image.height
        return 4 * pixels * len(self) // len(sample)

    def cache_all(self) -> None:
        """Decode all images into memory, which processes that are forked afterwards share."""
        with ThreadPoolExecutor() as pool:  # decoding releases the GIL
            list(pool.map(self.__getitem__, range(len(self))))

    def indices_with_classes(self, class_names: Sequence[str]) -> list[int]:
        """Indices of the images that show one of these classes: bootstrapping repeats them (Section 4.3)."""
        for name in class_names:
            if name not in self.class_names:
                raise UserError(f"class {name!r} is not in the class list; choose from {', '.join(self.class_names)}.")
        wanted = [self.class_names.index(name) for name in class_names]
        with ThreadPoolExecutor() as pool:
            labels = pool.map(lambda files: self._read_label(files[1]), self._files)
            return [index for index, label in enumerate(labels) if np.isin(label, wanted).any()]

    def file_signature(self, index: int) -> str:
        """Name, sizes and times of an image and its label: a file that replaces one of them changes it."""
        found = [file.stat() for file in self._files[index]]
        return " ".join([self.names[index], *(f"{file.st_size}@{file.st_mtime_ns}" for file in found)])

    def _read_label(self, path: Path) -> np.ndarray:
        values = np.asarray(open_label(path))
        label = self._lookup[values]
        if label.min() < 0:
            unlisted = int(values[label < 0][0])
            raise UserError(
                f"label {path} holds the value {unlisted}, which is not in the class list; add that class, set such "
                "pixels to 255, or have them read as void with the setting data.unlisted_labels=ignore."
            )
        return label.astype(np.uint8)


def read_image(path: Path) -> np.ndarray:
    """Return an RGB image ``(H, W, 3)`` uint8; a damaged file is a :class:`UserError` that names it."""
    return np.asarray(open_image(path).convert("RGB"))


def open_image(path: Path) -> Image.Image:
    """Decode an image file; a damaged one is a :class:`UserError` that names it."""
    with readable(path):
        image = Image.open(path)
        image.load()
    return image


def open_label(path: Path) -> Image.Image:
    """Decode a label file, whose pixels are class numbers; an image of another kind is a :class:`UserError`."""
    image = open_image(path)
    if image.mode not in ("P", "L"):
        raise UserError(f"label {path} is a {image.mode} image; labels are palette PNGs of class numbers.")
    return image


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of an image decoder into a :class:`UserError` that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read ({error}); replace the file.") from error


def fingerprint(root: Path | str, list_name: str) -> str:
    """Short hash of a list's names and file sizes, or of its names and the pixels' hash where these are synthetic."""
    data = VOCData(root, list_name, {0: "background"})
    if pixels := stated_hash(data.root):
        return short_hash(pixels, list_name, *data.names)
    sizes = [str([file.stat().st_size for file in files]) for files in data._files]
    return short_hash(list_name, *map("".join, zip(data.names, sizes, strict=True)))


def stated_hash(root: Path) -> str | None:
    """Hash of all pixels that a synthetic data set states in ``dataset.json``; None for any other data set."""
    path = root / "dataset.json"
    if not path.is_file():
        return None
    found = re.search(r'"sha256": "(\w+)"', path.read_text(encoding="utf-8", errors="replace"))
    if not found:
        raise UserError(f"{path} is damaged; delete its folder, the data set is drawn again.")
    return found[1]


def short_hash(*texts: str) -> str:
    """First 16 hexadecimal digits of the texts' SHA-256."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]

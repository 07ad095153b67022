"""Data sets in VOC's layout: images, labels with 255 = void, and lists of names (Section 4).

``JPEGImages/NAME.jpg``, ``SegmentationClass/NAME.png`` and ``ImageSets/Segmentation/LIST.txt``; other kinds of images
will do as well. Names whose label is not in ``SegmentationClass`` are looked up in ``SegmentationClassAug``, where
SBD's labels are: the 1,464 images that VOC labeled itself keep VOC's finer labels in ``trainaug``.
"""

import hashlib
import io
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from deeplabv3.config import VOID
from deeplabv3.data.lists import Files, find_root, read_list
from deeplabv3.data.reading import SUFFIXES, image_size, orientation, palette, read_image, read_label, readable
from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from deeplabv3.machine import available_cpus, available_memory

VOC_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}
"""Images in each of VOC 2012's lists, and in the one that SBD's labels enlarge (Section 4)."""

SAMPLE_BYTES = 4096
"""Bytes of a block of an image file, four of which are part of its list's fingerprint."""

MEMORY_SHARE = 0.25
"""Share of the free memory that decoded images may take; training and other programs need the rest."""


def palette_png(values: np.ndarray, colors: np.ndarray | None = None) -> bytes:
    """Label values ``(H, W)`` uint8 as a palette PNG, by default in VOC's colors, as VOC's own labels are."""
    image = Image.fromarray(values).convert("P")  # grays keep their numbers as palette entries
    image.putpalette((palette() if colors is None else colors).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def allowance() -> int:
    """Bytes of decoded images that this process may keep in memory."""
    return int(MEMORY_SHARE * available_memory())


class VOCData:
    """Images and labels of one list.

    Args:
        root: folder in VOC's layout, or one that :func:`find_root` finds it from
        list_name: name of the list
        classes: label values in the files and their names, in the order of the model's classes
        cache: keep decoded images in memory; None keeps them if the whole list fits into :func:`allowance`
        unlisted_labels: any other label value is an ``"error"`` that names the file, or void where this is ``"ignore"``
        void: label value of pixels without a class; in the labels that this class returns it is always 255
    """

    def __init__(
        self,
        root: Path | str,
        list_name: str,
        classes: dict[int, str],
        cache: bool | None = False,
        unlisted_labels: str = "error",
        void: int = VOID,
    ):
        self.root = find_root(root)
        self.list_name = list_name
        self.classes, self.void = classes, void
        self.class_names = tuple(classes.values())
        self._lookup = np.full(256, VOID if unlisted_labels == "ignore" else -1, dtype=np.int16)
        self._lookup[list(classes)] = np.arange(len(classes))
        self._lookup[void] = VOID
        self.names = read_list(self.root, list_name)
        files = Files(self.root)
        self._files = [(files.image(name, list_name), files.label(name, list_name)) for name in self.names]
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
            raise UserError(size_error(image_path, label_path, image.shape, label.shape))
        if self.cached:
            self._cache[index] = (image, label)
        return image, label

    def decoded_bytes(self) -> int:
        """Estimated size of all decoded images and labels in bytes: four a pixel, by the headers of 100 files."""
        sample = range(0, len(self), -(-len(self) // 100))
        pixels = sum(math.prod(self.image_size(index)) for index in sample)
        return 4 * pixels * len(self) // len(sample)

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, by the header of its file."""
        width, height = image_size(self._files[index][0])
        return height, width

    def label(self, index: int) -> np.ndarray:
        """Label ``(H, W)`` uint8 of class indices, 255 where void; its image is not decoded."""
        image_path, label_path = self._files[index]
        label = self._read_label(label_path)
        if label.shape != self.image_size(index):
            raise UserError(size_error(image_path, label_path, self.image_size(index), label.shape))
        return label

    @property
    def label_files(self) -> list[Path]:
        """The label file of each image."""
        return [label for _, label in self._files]

    def cache_all(self) -> None:
        """Decode all images into memory, which processes that are forked afterwards share."""
        with ThreadPoolExecutor(available_cpus()) as pool:  # decoding releases the GIL
            list(pool.map(self.__getitem__, range(len(self))))

    def indices_with_classes(self, class_names: Sequence[str]) -> list[int]:
        """Indices of the images that show one of these classes: bootstrapping repeats them (Section 4.3)."""
        for name in class_names:
            if name not in self.class_names:
                raise UserError(f"class {name!r} is not in the class list; choose from {', '.join(self.class_names)}.")
        wanted = [self.class_names.index(name) for name in class_names]
        with ThreadPoolExecutor(available_cpus()) as pool:
            labels = pool.map(self.label, range(len(self)))
            return [index for index, label in enumerate(labels) if np.isin(label, wanted).any()]

    def file_signature(self, index: int) -> str:
        """Name, sizes and times of an image and its label: a file that replaces one of them changes it."""
        found = [file.stat() for file in self._files[index]]
        return " ".join([self.names[index], *(f"{file.st_size}@{file.st_mtime_ns}" for file in found)])

    def _read_label(self, path: Path) -> np.ndarray:
        values = read_label(path)
        label = self._lookup[values]
        if label.min() < 0:
            unlisted = int(values[label < 0][0])
            raise UserError(
                f"label {path} holds the value {unlisted}, which is not in the class list; add that class, set such "
                f"pixels to {self.void}, or have them read as void with the setting data.unlisted_labels=ignore."
            )
        return label.astype(np.uint8)


def size_error(image_path: Path, label_path: Path, image: Sequence[int], label: Sequence[int]) -> str:
    """Error sentence for a label of another shape ``(H, W)`` than its image, with the remedy."""
    text = f"label {label_path} is {label[1]} x {label[0]} pixels and its image {image[1]} x {image[0]}"
    with readable(image_path), Image.open(image_path) as file:
        turned = orientation(file) > 4
    if turned and (label[1], label[0]) == tuple(image[:2]):
        return (
            f"{text}, as its EXIF entry turns it and viewers show it; turn the label as well, or remove the entry: "
            f"exiftool -Orientation= '{image_path}'"
        )
    return f"{text}; they must have one size: replace one of them."


def fingerprint(root: Path | str, list_name: str) -> str:
    """Short hash of a list's data: of its names, the bytes of its labels, and sizes and samples of its images.

    Copies have equal fingerprints, wherever they are. Where a synthetic data set states its pixels' hash, that one
    counts.
    """
    data = VOCData(root, list_name, {0: "background"})
    if pixels := stated_hash(data.root):
        return short_hash(pixels, list_name, *data.names)

    def content(files: tuple[Path, Path]) -> str:
        image, label = files
        with readable(label):
            return f" {_sample_hash(image)} {hashlib.sha256(label.read_bytes()).hexdigest()}\n"

    with ThreadPoolExecutor() as pool:  # more than the cores: the disk is what takes time
        contents = list(pool.map(content, data._files))
    return short_hash(list_name, *map("".join, zip(data.names, contents, strict=True)))


def _sample_hash(path: Path) -> str:
    """Hash of a file's size and of four blocks of it, from its first to its last; of a small file, of all its bytes."""
    with readable(path), open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        digest = hashlib.sha256(str(size).encode())
        for part in range(4):
            file.seek(max(0, size - SAMPLE_BYTES) * part // 3)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


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


def write_values(folder: Path | str, colors: Sequence[tuple[int, int, int]] | None = None) -> None:
    """Replace the RGB labels of a folder by palette PNGs; a color's value is its place in ``colors``.

    By default they are VOC's 256. A color that is not among them is a :class:`UserError`, and all files stay.
    """
    table = np.array(palette() if colors is None else colors, dtype=np.uint8)  # (n, 3)
    keys = table.astype(int) @ (1 << 16, 1 << 8, 1)
    order = np.argsort(keys)

    def values(path: Path) -> np.ndarray | None:  # (H, W); None for a label that is not RGB
        with readable(path), Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA"):
                return None
            pixels = np.asarray(image.convert("RGB"))  # (H, W, 3)
        found = pixels.astype(int) @ (1 << 16, 1 << 8, 1)  # (H, W)
        nearest = order[np.searchsorted(keys[order], found).clip(max=len(keys) - 1)]
        if (unknown := keys[nearest] != found).any():
            color = tuple(pixels[unknown][0].tolist())
            raise UserError(f"label {path} has the color {color}; add it to the colors. Nothing is written.")
        return nearest.astype(np.uint8)

    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    in_color = [path for path in files if values(path) is not None]  # all are looked at before one is written
    for path in in_color:
        label = values(path)
        assert label is not None
        write_atomically(path.with_suffix(".png"), palette_png(label, table))

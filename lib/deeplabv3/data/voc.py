"""Reads everything in VOC's layout: images, palette labels with 255 = void, and lists of names (Section 4).

``JPEGImages/NAME.jpg`` (or ``.png``), ``SegmentationClass/NAME.png`` and ``ImageSets/Segmentation/LIST.txt``. Names
whose label is not in ``SegmentationClass`` are looked up in ``SegmentationClassAug``, where SBD's labels lie: the 1,464
images that VOC labeled itself keep VOC's finer labels in ``trainaug``.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from deeplabv3.config import VOID
from deeplabv3.errors import UserError

VOC_COUNTS = {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}
"""How many images VOC 2012's lists hold, and the one that SBD's labels enlarge (Section 4)."""


def palette() -> np.ndarray:
    """VOC's 256 colors, ``(256, 3)`` uint8: the bits of the class number spread over red, green and blue."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for label in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
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
    """The folder that holds ``ImageSets``: ``root`` itself or ``root/VOC2012``."""
    root = Path(root)
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    state = "has no ImageSets/Segmentation folder" if root.is_dir() else "does not exist"
    raise UserError(f"data root {root} {state}; name a folder in VOC's layout, such as VOCdevkit/VOC2012.")


def read_list(root: Path, list_name: str) -> list[str]:
    """The image names of a list, in order; none, or no such list, is a :class:`UserError`."""
    path = root / "ImageSets" / "Segmentation" / f"{list_name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"list {path} does not exist (lists there: {known}); choose one of those or add it.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"list {path} is not a text file in UTF-8; write one image name a line into it.") from error
    if not names:
        raise UserError(f"list {path} is empty; write one image name a line into it.")
    return names


def image_path(root: Path, name: str, list_name: str) -> Path:
    """The file of a list's image; a missing one is a :class:`UserError`."""
    folder = root / "JPEGImages"
    for suffix in (".jpg", ".png"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise UserError(f"image {folder / name}.jpg of list {list_name!r} is missing; restore it or its list.")


def label_path(root: Path, name: str, list_name: str) -> Path:
    """The file of a list's label, VOC's own before SBD's; a missing one is a :class:`UserError`."""
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        if (root / folder / f"{name}.png").is_file():
            return root / folder / f"{name}.png"
    path = root / "SegmentationClass" / f"{name}.png"
    raise UserError(f"label {path} of list {list_name!r} is missing; restore it or take the name off the list.")


class VOCData:
    """The images and labels of one list.

    ``classes`` maps the label values in the PNG files to names, in the order of the model's classes. Any other value
    than these and 255 is an error that names the file, or void where ``others`` is ``"void"``. ``cache`` keeps images
    in memory once they are decoded; None keeps them where all of the list fit into a quarter of what is free.
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
        self._lookup = np.full(256, VOID if unlisted_labels == "void" else -1, dtype=np.int16)
        for index, value in enumerate(classes):
            self._lookup[value] = index
        self._lookup[VOID] = VOID
        self.names = read_list(self.root, list_name)
        self._files = [
            (image_path(self.root, name, list_name), label_path(self.root, name, list_name)) for name in self.names
        ]
        if cache is None:
            cache = self.decoded_bytes() <= allowance()
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if cache else None

    def __getstate__(self) -> dict:
        """What a process that is spawned gets: not the images in memory, which it would have a second copy of."""
        return self.__dict__ | {"_cache": None}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(H, W, 3)`` uint8 and label ``(H, W)`` uint8 of class indices, 255 where void."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image_path, label_path = self._files[index]
        image, label = read_image(image_path), self._read_label(label_path)
        if image.shape[:2] != label.shape:
            raise UserError(
                f"label {label_path} is {label.shape[1]} x {label.shape[0]} pixels and its image "
                f"{image.shape[1]} x {image.shape[0]}; they must have one size: replace one of them."
            )
        if self._cache is not None:
            self._cache[index] = (image, label)
        return image, label

    @property
    def cached(self) -> bool:
        """Whether images stay in memory once they are decoded."""
        return self._cache is not None

    def decoded_bytes(self) -> int:
        """About how much memory all images and labels take: four bytes a pixel, by the headers of a hundred files."""
        some = self._files[:: -(-len(self) // 100)]
        pixels = 0
        for path, _ in some:
            with readable(path), Image.open(path) as image:
                pixels += image.width * image.height
        return 4 * pixels * len(self) // len(some)

    def cache_all(self) -> None:
        """Decode all images into memory, where the processes that are forked afterwards find them."""
        with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock to others
            for _ in pool.map(self.__getitem__, range(len(self))):
                pass

    def indices_with_classes(self, class_names: Sequence[str]) -> list[int]:
        """The numbers of the images that show one of these classes: what bootstrapping repeats (Section 4.3)."""
        for name in class_names:
            if name not in self.class_names:
                raise UserError(f"class {name!r} is not in the class list; choose from {', '.join(self.class_names)}.")
        wanted = [self.class_names.index(name) for name in class_names]
        with ThreadPoolExecutor() as pool:  # reading a PNG leaves Python's lock to others
            labels = pool.map(lambda files: self._read_label(files[1]), self._files)
            return [number for number, label in enumerate(labels) if np.isin(label, wanted).any()]

    def file_signature(self, index: int) -> str:
        """Name, sizes and times of a image and its label: what is replaced by another file gets another stamp."""
        found = [file.stat() for file in self._files[index]]
        return " ".join([self.names[index], *(f"{file.st_size}@{file.st_mtime_ns}" for file in found)])

    def _read_label(self, path: Path) -> np.ndarray:
        values = np.asarray(open_label(path))
        label = self._lookup[values]
        if label.min() < 0:
            strange = int(values[label < 0][0])
            raise UserError(
                f"label {path} holds the value {strange}, which is not in the class list; add that class, set such "
                "pixels to 255, or have them read as void with the setting data.unlisted_labels=ignore."
            )
        return label.astype(np.uint8)


def read_image(path: Path) -> np.ndarray:
    """An RGB image ``(H, W, 3)`` uint8; a damaged file is a :class:`UserError` that names it."""
    return np.asarray(open_image(path).convert("RGB"))


def open_image(path: Path) -> Image.Image:
    """A image file, decoded; a damaged one is a :class:`UserError` that names it."""
    with readable(path):
        image = Image.open(path)
        image.load()
    return image


def open_label(path: Path) -> Image.Image:
    """A label file, decoded, whose pixels are class numbers; any other image is a :class:`UserError`."""
    image = open_image(path)
    if image.mode not in ("P", "L"):
        raise UserError(f"label {path} is a {image.mode} image; labels are palette PNGs of class numbers.")
    return image


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What a damaged image file does to its decoder is a :class:`UserError` that names the file."""
    try:
        yield
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"image {path} cannot be read ({error}); replace the file.") from error


def fingerprint(root: Path | str, *lists: str) -> str:
    """A short hash of what the lists name: names and file sizes, or the hash that a generated data set states."""
    root = find_root(root)
    digest = hashlib.sha256()
    description = root / "dataset.json"
    if description.is_file():
        try:
            digest.update(json.loads(description.read_text(encoding="utf-8"))["sha256"].encode())
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{description} is damaged; delete its folder, the data set is drawn again.") from error
    for list_name in lists:
        data = VOCData(root, list_name, {0: "background"})
        digest.update(list_name.encode())
        for name, files in zip(data.names, data._files, strict=True):
            digest.update(name.encode())
            if not description.is_file():
                digest.update(str([file.stat().st_size for file in files]).encode())
    return digest.hexdigest()[:16]


SHARE = 0.25
"""The part of the free memory that decoded images may take: training wants the rest, and so may other programs."""


MEMINFO = Path("/proc/meminfo")


CGROUP = Path("/sys/fs/cgroup")


def allowance() -> int:
    """Bytes that this process may fill with decoded images; 0 where the system does not say what is free."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
    # A container sees the memory of the whole machine there, and is killed at its own limit.
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    except (OSError, ValueError):  # no such limit
        pass
    # The processes that torchrun starts on one machine each have their own copy.
    return int(SHARE * free) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))

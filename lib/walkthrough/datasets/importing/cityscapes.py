"""Cityscapes: ``leftImg8bit`` and ``gtFine`` with 34 label ids, to the benchmark's 19 classes; the rest is void.

The lists are Cityscapes' own; the labels of ``test`` are kept secret, and its images are left out. Images of
``train_extra`` have the labels of ``gtCoarse``, where it is there, and are in the list ``trainval_coarse`` alone.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from deeplabv3.config import VOID
from deeplabv3.data.reading import read_label
from deeplabv3.errors import UserError
from walkthrough.datasets.importing.export import COARSE, Export, Item, Settings, files, folder

CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Label id to name, in the order of the train ids 0 to 18."""

IMAGE, LABEL, COARSE_LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtCoarse_labelIds.png"

EXTRA = "train_extra"
"""Folder of the images that have coarse labels only."""

_TRAIN_IDS = np.full(256, VOID, dtype=np.uint8)
_TRAIN_IDS[list(CLASSES)] = np.arange(len(CLASSES))


def read(settings: Settings) -> Export:
    """Read the folder that ``leftImg8bit`` and ``gtFine`` are in."""
    if settings.classes or settings.renamed:
        raise UserError("cityscapes has the 19 classes of its benchmark; leave --classes and --map out.")
    images = folder(settings.images or settings.source / "leftImg8bit", "folder of images")
    labels = folder(settings.source / "gtFine", "folder of labels")
    found = {path.name.removesuffix(IMAGE): path for path in files(images, (".png",)) if path.name.endswith(IMAGE)}
    masks = {path.name.removesuffix(LABEL): path for path in files(labels, (".png",)) if path.name.endswith(LABEL)}
    extra = files(settings.source / "gtCoarse" / EXTRA, (".png",))  # train and val have fine labels
    masks |= {path.name.removesuffix(COARSE_LABEL): path for path in extra if path.name.endswith(COARSE_LABEL)}
    splits = {name: path.relative_to(images).parts[0] for name, path in found.items()}
    secret = {name for name, split in splits.items() if split == "test"}
    items = [
        Item(name, path, _reader(masks[name]), COARSE if splits[name] == EXTRA else splits[name])
        for name, path in found.items()
        if name in masks and name not in secret
    ]
    if not items:
        raise UserError(f"{settings.source} has no *{IMAGE} with a *{LABEL}; unpack both archives of Cityscapes there.")
    refused = {str(mask): f"has no image *{IMAGE}" for name, mask in masks.items() if name not in found}
    unlabeled = [path for name, path in found.items() if name not in masks or name in secret]
    return Export(dict(enumerate(CLASSES.values())), items, unlabeled, refused, annotations=list(masks.values()))


def _reader(path: Path) -> Callable[[tuple[int, int]], np.ndarray]:
    """Function that reads a label of the given width and height."""

    def label(size: tuple[int, int]) -> np.ndarray:
        values = read_label(path)
        if values.shape != size[::-1]:
            raise UserError(f"label {path} has another size than its image, {size[0]} x {size[1]}; unpack both again.")
        return _TRAIN_IDS[values]

    return label

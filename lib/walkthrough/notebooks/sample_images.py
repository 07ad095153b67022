"""Photographs with labels in VOC's layout, for the notebook on the data."""

import os
import shutil
from pathlib import Path

import numpy as np
from matplotlib import cbook
from scipy.ndimage import maximum_filter, minimum_filter

from deeplabv3.config import VOC_CLASSES, VOID, EvaluationConfig
from deeplabv3.data.lists import find_root, list_names
from deeplabv3.data.reading import read_image
from deeplabv3.data.voc import VOCData, palette_png
from deeplabv3.evaluation.predict import predict_photo
from deeplabv3.model.pretrained import load_pretrained
from walkthrough import paths
from walkthrough.profiles import VOC_ROOT, Profile

RIM = 5
"""Pixels of the void rim around a drawn object, about as many as in VOC's labels."""


def open_photographs(profile: Profile, folder: Path | str) -> tuple[VOCData, str]:
    """Training images and a sentence on them: the profile's, else VOC's, else :func:`write_samples` in ``folder``.

    VOC is looked for in ``$DEEPLABV3_DATA`` and in the workspace.
    """
    if profile.data.kind == "voc":
        data = profile.open_data(profile.data.train_list)
        return data, f"{len(data):,} images of profile {profile.name}, list {data.list_name}."
    named, own = os.environ.get("DEEPLABV3_DATA"), paths.workspace() / VOC_ROOT
    if named or own.is_dir():
        root = find_root(named or own)
        list_name = "trainaug" if "trainaug" in list_names(root) else "train"
        data = VOCData(root, list_name, dict(enumerate(VOC_CLASSES)), unlisted_labels="ignore")
        return data, f"{len(data):,} images of VOC 2012, or of a part of it, list {list_name}."
    classes = write_samples(Path(folder))
    return VOCData(folder, "train", classes), (
        "VOC is not here ('deeplabv3 data get voc sbd' fetches it). These are a photograph of this project and one of\n"
        f"matplotlib; the network in the library drew their labels, with a void rim of {RIM} pixels, as VOC's have."
    )


def write_samples(root: Path) -> dict[int, str]:
    """Write two photographs, predicted labels and the list ``train`` in VOC's layout; return the labels' classes."""
    network, classes = load_pretrained()
    numbers = np.array(list(classes), dtype=np.uint8)  # (K,)
    photographs = {
        "chelsea": paths.home() / "data" / "photographs" / "chelsea.jpg",
        "grace_hopper": Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)),
    }
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for name, photograph in photographs.items():
        settings = EvaluationConfig(padding="tight")
        label = numbers[predict_photo(network, read_image(photograph), settings, max_size=321)]  # (H, W)
        label[maximum_filter(label, RIM) != minimum_filter(label, RIM)] = VOID
        shutil.copy(photograph, root / "JPEGImages" / f"{name}.jpg")
        (root / "SegmentationClass" / f"{name}.png").write_bytes(palette_png(label))
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(photographs) + "\n")
    return classes

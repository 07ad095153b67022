"""Data sets that are spoiled or turned on purpose, and the command lines that error sentences propose."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import write_label
from PIL import Image

from deeplabv3.data import reading


def exif(orientation: int) -> Image.Exif:
    entry = Image.Exif()
    entry[reading.ORIENTATION] = orientation
    return entry


def run_line(error: str, **replaced: str) -> None:
    """Run the command that a sentence ends with, with values for its placeholders."""
    line = error[error.index("python -c") :]
    for name, value in replaced.items():
        line = line.replace(name, value)
    python, *arguments = shlex.split(line)
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True)


def turn_image(root: Path, name: str, orientation: int) -> None:
    """Store an image of the data set turned, with the entry that turns it back."""
    path = root / "JPEGImages" / f"{name}.jpg"
    method = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    with Image.open(path) as image:
        image.transpose(method).save(path, exif=exif(orientation), quality=95)


def no_root(root):
    shutil.rmtree(root)


def no_image_sets(root):
    shutil.rmtree(root / "ImageSets")


def no_list(root):
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()


def binary_list(root):
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"image_0\n\xff\n")


def empty_list(root):
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n  \n")


def no_image(root):
    (root / "JPEGImages" / "image_2.jpg").unlink()


def no_label(root):
    (root / "SegmentationClass" / "image_2.png").unlink()


def truncated_image(root):
    path = root / "JPEGImages" / "image_2.jpg"
    path.write_bytes(path.read_bytes()[:700])


def empty_image(root):
    (root / "JPEGImages" / "image_2.jpg").write_bytes(b"")


def no_image_at_all(root):
    (root / "JPEGImages" / "image_2.jpg").write_text("<html>404</html>")


def truncated_label(root):
    path = root / "SegmentationClass" / "image_2.png"
    path.write_bytes(path.read_bytes()[:-60])


def label_of_other_size(root):
    write_label(root / "SegmentationClass" / "image_2.png", np.zeros((20, 20), np.uint8))


def transposed_label(root):
    path = root / "SegmentationClass" / "image_2.png"
    write_label(path, np.asarray(Image.open(path)).T)


def strange_label_value(root):
    path = root / "SegmentationClass" / "image_2.png"
    label = np.array(Image.open(path))
    label[0, 0] = 9
    write_label(path, label)


def rgb_label(root):
    path = root / "SegmentationClass" / "image_2.png"
    Image.open(path).convert("RGB").save(path)


MISTAKES = [
    (no_root, "does not exist"),
    (no_image_sets, "ImageSets/Segmentation"),
    (no_list, r"train\.txt does not exist \(lists there: trainval, val\)"),
    (binary_list, r"train\.txt is not a text file in UTF-8"),
    (empty_list, r"train\.txt is empty"),
    (no_image, r"image_2\.jpg .*missing"),
    (no_label, r"image_2\.png .*missing"),
    (truncated_image, r"image_2\.jpg cannot be read"),
    (empty_image, r"image_2\.jpg cannot be read"),
    (no_image_at_all, r"image_2\.jpg cannot be read"),
    (truncated_label, r"image_2\.png cannot be read"),
    (label_of_other_size, r"image_2\.png is 20 x 20 pixels and its image 53 x 37"),
    (transposed_label, r"image_2\.png is 37 x 53 pixels and its image 53 x 37"),
    (strange_label_value, r"image_2\.png holds the value 9"),
    (rgb_label, r"image_2\.png is a RGB image"),
]

"""Prediction on image files of any kind: which files, which weights, and classes at the image's own size."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.models import segmentation

from deeplabv3.config import MAX_SIZE, VOC_CLASSES, EvaluationConfig
from deeplabv3.data.reading import SUFFIXES, UNREADABLE, conversion
from deeplabv3.data.transforms import pad, padded_size
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import eval_mode, predict, probabilities
from deeplabv3.files import CHECKPOINT
from deeplabv3.model.checkpoint import load_model
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import download, from_torchvision, read_weights

TORCHVISION = {
    "resnet50": segmentation.DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
    "resnet101": segmentation.DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1,
}


def load_weights(source: str, names: Sequence[str] = ()) -> tuple[DeepLabV3, dict[int, str]]:
    """A network for inference and its classes, label value to name in the order of its outputs.

    ``source`` is a checkpoint of ours or the folder of a run, ``torchvision`` for torchvision's DeepLabV3
    with ResNet-101 (downloaded, trained on the images of COCO that show VOC's classes), ``torchvision:resnet50``, or
    ``torchvision:FILE`` for a file of either's weights, whose classes, in the order of the outputs, have ``names`` (by
    default VOC's where there are 21 of them, and else numbers).
    """
    kind, _, backbone_or_file = source.partition(":")
    if kind == "torchvision":
        backbone_or_file = backbone_or_file or "resnet101"
        if backbone_or_file in TORCHVISION:
            weights = TORCHVISION[backbone_or_file]
            state = download(weights, "torchvision's weights", "give --weights torchvision:FILE")
        else:
            state = read_weights(backbone_or_file)
        model = from_torchvision(state, f"weights {backbone_or_file}")
        count = model.config.num_classes
        names = names or (VOC_CLASSES if count == len(VOC_CLASSES) else list(_numbered(count).values()))
        if len(names) != count or not all(names) or len(set(names)) != count:
            raise UserError(f"weights {backbone_or_file} have {count} classes, which {', '.join(names)!r} do not name.")
        return model, dict(enumerate(names))
    if names:
        raise UserError(f"weights {source} have classes of their own; names are for those of torchvision:FILE.")
    file = Path(source) / CHECKPOINT if Path(source).is_dir() else Path(source)
    if file.suffix in (".pth", ".pt"):
        raise UserError(f"weights {file} are none of this project's; name torchvision's as torchvision:{file}.")
    if not file.is_file():
        raise UserError(f"weights {file} do not exist; name a checkpoint.safetensors of a run, or 'torchvision'.")
    model, checkpoint = load_model(file)
    classes = checkpoint.settings.get("data", {}).get("classes") or _numbered(model.config.num_classes)
    return model, {int(value): name for value, name in classes.items()}


def _numbered(count: int) -> dict[int, str]:
    """Classes without names: each is called by its number."""
    return {number: str(number) for number in range(count)}


def find_images(inputs: Sequence[str], output: Path | None = None) -> list[Path]:
    """The image files that files, folders and patterns such as ``"holiday/*.jpg"`` name, each once, in order.

    A folder counts with the images directly in it, without hidden files; a file that is named may end in anything. In
    ``output``, the folder of the predictions, folders and patterns find nothing that an earlier prediction wrote.
    """
    images: dict[Path, Path] = {}  # by their resolved paths
    for item in inputs:
        path = Path(item)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = _with_suffixes(path, SUFFIXES)
            reason = f"folder {item} holds no images ({', '.join(sorted(SUFFIXES))}); name another one."
            if others := _with_suffixes(path, UNREADABLE):
                reason = f"folder {item} holds no images that can be read; {conversion(others[0])}"
        else:
            files = [Path(name) for name in sorted(glob.glob(item, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
            reason = f"{item} is neither a file nor a folder, and no image matches it; check the path."
        if output is not None and not path.is_file():
            files = [file for file in files if not (file.name.endswith(RESULTS) and _is_in(file, output))]
        if not files:
            raise UserError(reason)
        for file in files:
            images.setdefault(file.resolve(), file)
    return list(images.values())


def _with_suffixes(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """A folder's files with one of these suffixes, without hidden ones."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")
    return sorted(file for file in files if file.is_file())


def unreadable_images(inputs: Sequence[str]) -> list[Path]:
    """Images in the folders among ``inputs`` that have to be converted before they can be read, such as HEIC."""
    return [file for item in inputs if Path(item).is_dir() for file in _with_suffixes(Path(item), UNREADABLE)]


OVERLAY, CLASSES, SHARES = "_overlay.jpg", "_classes.png", "shares.csv"
UNFINISHED = "shares.unfinished.csv"  # while images are missing
RESULTS = (OVERLAY, CLASSES)
"""Ends of the names of an image's two files."""

ABOUT = ("file", "results", "width", "height", "seconds")
"""Columns of the table ``shares.csv`` before those of the classes."""


def _is_in(file: Path, folder: Path) -> bool:
    return file.parent.resolve() == folder.resolve()


def refuse_to_overwrite(images: Iterable[Path], names: Iterable[str], output: Path) -> None:
    """Raise a :class:`UserError` where results would replace other files than earlier results, which have a table."""
    for image in images:
        if _is_in(image, output):
            raise UserError(f"image {image} lies in {output} itself; name another folder with --output.")
    tables = output / SHARES, output / UNFINISHED
    if any(table.is_file() and table.read_bytes().startswith(",".join(ABOUT).encode()) for table in tables):
        return
    for file in (*tables, *(output / (name + end) for name in names for end in RESULTS)):
        if file.exists():
            raise UserError(
                f"{file} exists and is not from an earlier prediction; move it away, or name another folder with "
                "--output."
            )


def output_names(images: Iterable[Path]) -> list[str]:
    """Name of each image's results: its stem, with a number behind it where another image has that name."""
    taken: set[str] = set()
    names = []
    for image in images:
        name, number = image.stem, 1
        while name.lower() in taken:  # some file systems do not tell Cat from cat
            number += 1
            name = f"{image.stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def predict_photo(
    model: DeepLabV3, photo: np.ndarray, config: EvaluationConfig, max_size: int = MAX_SIZE
) -> np.ndarray:
    """Predicted class indices ``(H, W)`` uint8 of a photograph ``(H, W, 3)`` uint8 of any size, at that size.

    An image whose longer side exceeds ``max_size`` pixels is reduced to it, since the network knows objects of the size
    that VOC's images show; the class *probabilities* are then enlarged, which leaves smooth borders. Any other
    image is predicted as in evaluation, and so is every image where ``config`` has a ``tile_size``.
    """
    height, width, _ = photo.shape
    scale = max_size / max(height, width)
    if scale >= 1 or config.tile_size:
        return predict(model, photo, config)
    small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(photo).resize((small_width, small_height), Image.Resampling.BILINEAR))
    padded = torch.from_numpy(pad(small, padded_size(small_height, small_width, config)))
    with eval_mode(model, config):
        scores = probabilities(model, padded[None], config)[0]
    return _enlarged(scores[:, :small_height, :small_width].float().cpu().numpy(), height, width)


def _enlarged(probabilities: np.ndarray, height: int, width: int) -> np.ndarray:
    """The most probable class of every pixel when ``probabilities (K, h, w)`` are enlarged, one class at a time.

    All classes of 20 megapixels at once would be 1.7 GB.
    """
    best = np.zeros((height, width), dtype=np.float32)
    classes = np.zeros((height, width), dtype=np.uint8)
    for index, small in enumerate(probabilities):
        if small.max() < 1 / len(probabilities):  # the most probable class has at least that everywhere
            continue
        large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
        classes[large > best] = index
        np.maximum(best, large, out=best)
    return classes


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Percentage of the pixels that each class has, ``(num_classes,)``."""
    return 100 * np.array(Image.fromarray(classes).histogram()[:num_classes]) / classes.size

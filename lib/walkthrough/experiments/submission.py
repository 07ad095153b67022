"""The folder that VOC's evaluation server takes for the test set (Table 7), whose labels only the server has."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from deeplabv3.config import VOC_CLASSES, EvaluationConfig
from deeplabv3.data.lists import Files, find_root, read_list
from deeplabv3.data.reading import read_image
from deeplabv3.data.voc import palette_png
from deeplabv3.errors import UserError, attempt
from deeplabv3.evaluation.inference import predict_batches
from deeplabv3.files import write_atomically
from deeplabv3.model.deeplab import DeepLabV3

FOLDER = Path("results", "VOC2012", "Segmentation", "comp6_test_cls")
"""The development kit's place for class segmentations of the list ``test`` by a network that has also seen other data
(competition 6; ImageNet is other data)."""

ARCHIVE = "results.tgz"
STATE = "submission.json"


def weights_hash(model: nn.Module) -> str:
    """Short hash of every value in the network."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_other_classes(classes: dict[int, str]) -> None:
    """Raise a :class:`UserError` for other classes than VOC's 21, which the server would take any others for."""
    if classes != dict(enumerate(VOC_CLASSES)):
        raise UserError(
            f"these weights know {len(classes)} classes ({', '.join(list(classes.values())[:8])} …) and the evaluation "
            "server wants VOC's 21; name weights of a network that was trained for those."
        )


def test_images(root: Path) -> dict[str, Path]:
    """Names and files of the test images, in the order of the list; a missing one is a :class:`UserError`."""
    root = find_root(root)
    files = Files(root)
    images, error = attempt(lambda: {name: files.image(name, "test") for name in read_list(root, "test")})
    if images is None:
        raise UserError(
            f"the test images are not in {root} ({error.split(';')[0]}); the evaluation server gives them to "
            "registered users as VOC2012test.tar, which is unpacked over VOCdevkit."
        )
    return images


def submit(
    model: DeepLabV3,
    images: dict[str, Path],
    config: EvaluationConfig,
    output: Path,
    weights: str,
    report: Callable[[], None] = lambda: None,
    batch_size: int = 1,
) -> Path:
    """Write a label file for each of ``images`` below ``output``, and the archive to upload, whose path is returned.

    Label files that exist are not made again: an interrupted call goes on. A full disk is a :class:`UserError`.

    Args:
        model: a network of VOC's 21 classes.
        images: names and files of the test images, as :func:`test_images` finds them.
        config: the inference strategy.
        output: a folder without predictions of other weights or another strategy, or else a :class:`UserError`.
        weights: a hash of the network's values, as of :func:`weights_hash`.
        report: called after each image.
        batch_size: images of one padded size at once.
    """
    folder = output / FOLDER
    _mark(output, json.dumps({"weights": weights, "settings": asdict(config)}, indent=2) + "\n")
    missing = [name for name in images if not (folder / f"{name}.png").is_file()]
    for _ in range(len(images) - len(missing)):
        report()
    predictions = predict_batches(model, (read_image(images[name]) for name in missing), config, batch_size)
    for name, classes in zip(missing, predictions, strict=True):
        write_atomically(folder / f"{name}.png", palette_png(classes))
        report()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in images:
            archive.add(folder / f"{name}.png", (FOLDER / f"{name}.png").as_posix())
    write_atomically(output / ARCHIVE, buffer.getvalue())
    return output / ARCHIVE


def _mark(output: Path, origin: str) -> None:
    """Write the origin of a folder's predictions into it, or refuse one that has predictions of another origin."""
    file = output / STATE
    same = file.read_bytes() == origin.encode() if file.is_file() else not any((output / FOLDER).glob("*.png"))
    if not same:
        raise UserError(
            f"folder {output} holds predictions of other weights or another strategy; name another with --output, or "
            "delete it."
        )
    write_atomically(file, origin)

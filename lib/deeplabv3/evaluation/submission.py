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
from deeplabv3.data.voc import find_root, image_path, palette_png, read_image, read_list
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import predict_batches
from deeplabv3.files import write_atomically, writing
from deeplabv3.model.deeplab import DeepLabV3

FOLDER = Path("results", "VOC2012", "Segmentation", "comp6_test_cls")
"""The development kit's place for class segmentations of the list ``test`` by a network that has also seen other data
(competition 6; ImageNet is other data)."""

ARCHIVE = "results.tgz"
STATE = "submission.json"


def weights_hash(model: nn.Module) -> str:
    """A short hash of every value in the network."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def refuse_other_classes(classes: dict[int, str]) -> None:
    """The server counts VOC's 21 classes and would take any others for those."""
    if classes != dict(enumerate(VOC_CLASSES)):
        raise UserError(
            f"these weights know {len(classes)} classes ({', '.join(list(classes.values())[:8])} …) and the evaluation "
            "server wants VOC's 21; name weights of a network that was trained for those."
        )


def test_images(root: Path) -> dict[str, Path]:
    """The test images' names and files, in the order of the list; that they are missing is a :class:`UserError`."""
    root = find_root(root)
    try:
        return {name: image_path(root, name, "test") for name in read_list(root, "test")}
    except UserError as error:
        raise UserError(
            f"the test images are not in {root} ({str(error).split(';')[0]}); the evaluation server gives them to "
            "registered users as VOC2012test.tar, which is unpacked over VOCdevkit."
        ) from error


def submit(
    model: DeepLabV3,
    images: dict[str, Path],
    settings: EvaluationConfig,
    output: Path,
    weights: str,
    report: Callable[[], None] = lambda: None,
    batch_size: int = 1,
) -> Path:
    """Write a label file for each of ``images`` below ``output``, and the archive to upload, whose path is returned.

    Label files that are there already are not made again: an interrupted call goes on. ``weights`` names the network's
    values, so that the predictions of two networks or two strategies never end up in one archive.
    """
    folder, missing = output / FOLDER, []
    with writing(output):
        folder.mkdir(parents=True, exist_ok=True)
        _claim(output, {"weights": weights, "settings": asdict(settings)})
    for name in images:
        if (folder / f"{name}.png").is_file():
            report()
        else:
            missing.append(name)
    found = predict_batches(model, (read_image(images[name]) for name in missing), settings, batch_size)
    for name, classes in zip(missing, found, strict=True):
        with writing(output):
            write_atomically(folder / f"{name}.png", palette_png(classes))
        report()
    buffer = io.BytesIO()
    with writing(output):
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in images:
                archive.add(folder / f"{name}.png", (FOLDER / f"{name}.png").as_posix())
        write_atomically(output / ARCHIVE, buffer.getvalue())
    return output / ARCHIVE


def _claim(output: Path, values: dict) -> None:
    """Mark a folder with what its predictions come from, or refuse one that is marked with something else."""
    path, values = output / STATE, json.loads(json.dumps(values))
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        before = {}
    if before is None and any((output / FOLDER).glob("*.png")):
        before = {}
    if before not in (None, values):
        raise UserError(
            f"folder {output} holds predictions of other weights or another strategy; name another with --output, or "
            "delete it."
        )
    write_atomically(path, json.dumps(values, indent=2) + "\n")

"""``deeplabv3 bench evaluate``: whole-image evaluation, ours against torchvision's reference loop.

The loop is that of torchvision's references/segmentation (``evaluate()`` and its ``ConfusionMatrix``): one image at a
time through the network as it comes. Both see the same files, padded the same way, and the same network; torchvision's
resizing of images and labels is left out, since it makes another metric.
"""

import tempfile
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import segmentation
from torchvision.transforms import functional as transforms

from deeplabv3 import config
from deeplabv3.config import VOC_CLASSES, VOID, EvaluationConfig
from deeplabv3.data import synthetic
from deeplabv3.data.transforms import MEAN, STD, pad, padded_size
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError, require
from deeplabv3.evaluation.inference import evaluate, predict_batches
from deeplabv3.evaluation.predict import load_weights
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.weights import from_torchvision
from walkthrough.bench.model import give_statistics
from walkthrough.bench.timing import alternate, describe_machine, threads

SIZES = ((500, 375), (500, 333), (500, 375), (375, 500))
"""Width and height that the synthetic images are enlarged to: VOC's most frequent ones."""


@dataclass(frozen=True)
class EvaluationBench:
    """What to compare.

    ``weights`` is what ``predict`` takes (a checkpoint of ours, or torchvision's), or nothing for torchvision's
    ResNet-50 with random weights; ``data`` a folder in VOC's layout, or nothing for synthetic images enlarged to VOC's
    sizes. ``workers`` processes read for torchvision's loop, ours has threads for that; ``threads`` 0 leaves PyTorch's
    own choice.
    """

    weights: str = ""
    data: str = ""
    images: int = 8
    output_stride: int = 8
    padding: str = "tight"
    batch_size: int = 1
    rounds: int = 5
    device: str = "cpu"
    threads: int = 0
    workers: int = 0
    bf16: bool = False

    def __post_init__(self):
        for name, lowest in (("images", 1), ("batch_size", 1), ("rounds", 3), ("threads", 0), ("workers", 0)):
            require(getattr(self, name) >= lowest, name, getattr(self, name), f"a whole number of at least {lowest}")
        require(self.device in ("cpu", "cuda"), "device", self.device, "'cpu' or 'cuda'")
        self.strategy()
        if not self.weights and self.output_stride != 8:
            raise UserError("torchvision's network runs at output stride 8 alone; name a checkpoint with --weights.")
        if self.weights and not self.data:
            raise UserError("a checkpoint is measured on images with its classes; name them with --data.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device 'cuda' is not there; choose --device cpu.")

    def strategy(self, bf16: bool = False) -> EvaluationConfig:
        """Single scale, no flip."""
        return EvaluationConfig(self.output_stride, padding=self.padding, precision="bfloat16" if bf16 else "float32")

    def run(self) -> dict:
        """Measure. Returns JSON values: ``rows`` holds images per second, the speed beside the loop's, and how many
        of the ``pixels`` that are not void get another class than the loop gives them.
        """
        with threads(self.threads), tempfile.TemporaryDirectory() as folder:
            theirs, ours, classes = self._networks()
            data = _First(VOCData(self.data or enlarged(Path(folder), self.images), "val", classes), self.images)
            samples = _Samples(data, self.strategy())
            loader = DataLoader(samples, num_workers=self.workers, persistent_workers=self.workers > 0)
            variants = {"ours, network as it comes": (ours, False), "ours": (optimize_for_inference(ours), False)}
            if self.bf16:
                variants["ours in bf16"] = (optimize_for_inference(ours), True)
            calls: dict[str, Callable] = {"torchvision's loop": partial(reference_loop, theirs, loader, self.device)}
            for name, (network, bf16) in variants.items():
                calls[name] = partial(evaluate, network, data, self.strategy(bf16), self.batch_size)
            rows = alternate("evaluation", calls, self.rounds, self.device)
            images = [data[index][0] for index in range(len(data))]
            differing = {
                name: _differing(theirs, loader, predict_batches(network, images, self.strategy(bf16), self.batch_size))
                for name, (network, bf16) in variants.items()
            }
            return {
                "bench": "evaluate",
                "settings": asdict(self) | {"weights": Path(self.weights).name, "data": Path(self.data).name},
                "machine": describe_machine(self.device, ("torch", "torchvision")),
                "images": len(data),
                "pixels": sum(int((data[index][1] != VOID).sum()) for index in range(len(data))),
                "rows": [
                    {
                        "name": row.name,
                        "images_per_second": len(data) / row.median,
                        "speed": rows[0].median / row.median,
                        "differing_pixels": differing.get(row.name),
                        "seconds": row.seconds,
                    }
                    for row in rows
                ],
            }

    def _networks(self) -> tuple[nn.Module, DeepLabV3, dict[int, str]]:
        """The network as torchvision's loop takes it, ours with the same weights, and label value to class name."""
        classes = dict(enumerate(VOC_CLASSES if self.data else config.SYNTHETIC_CLASSES))
        if self.weights:
            ours, classes = load_weights(self.weights)
            theirs: nn.Module = _AsTorchvision(deepcopy(ours).set_output_stride(self.output_stride))
        else:
            torch.manual_seed(0)
            theirs = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
            give_statistics(theirs)
            ours = from_torchvision(theirs)
        return theirs.to(self.device).eval(), ours.to(self.device).eval(), classes


class _AsTorchvision(nn.Module):
    """Our network with torchvision's way of handing logits over."""

    def __init__(self, network: DeepLabV3):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.network(images)}


class _First:
    """The first images of a list."""

    def __init__(self, data: VOCData, count: int):
        self.data, self.count = data, min(count, len(data))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.data[index]


class _Samples(Dataset):
    """Images as torchvision's loop takes them, ``(3, H, W)`` normalized, and labels ``(H, W)`` with void padding."""

    def __init__(self, data: _First, settings: EvaluationConfig):
        self.data, self.settings = data, settings

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        size = padded_size(*label.shape, self.settings)
        normalized = transforms.normalize(transforms.to_tensor(pad(image, size)), MEAN, STD)
        padded = np.full(size, VOID, dtype=np.int64)
        padded[: label.shape[0], : label.shape[1]] = label
        return normalized, torch.from_numpy(padded)


def reference_loop(network: nn.Module, loader: DataLoader, device: str) -> np.ndarray:
    """torchvision's evaluation: the confusion matrix ``(K, K)`` of all images."""
    matrix = None
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = network(images)["out"]
            truth, found, classes = labels.flatten(), logits.argmax(1).flatten(), logits.shape[1]
            if matrix is None:
                matrix = torch.zeros((classes, classes), dtype=torch.int64, device=device)
            counted = (truth >= 0) & (truth < classes)
            cells = classes * truth[counted].to(torch.int64) + found[counted]
            matrix += torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return matrix.cpu().numpy()


def _differing(network: nn.Module, loader: DataLoader, predictions: Iterable[np.ndarray]) -> int:
    """Pixels that are not void whose predicted class is not what torchvision's loop finds."""
    count = 0
    with torch.inference_mode():
        for (images, labels), ours in zip(loader, predictions, strict=True):
            theirs = network(images.to(next(network.parameters()).device))["out"].argmax(1)[0].cpu().numpy()
            height, width = ours.shape
            truth = labels[0, :height, :width].numpy()
            count += int(((theirs[:height, :width] != ours) & (truth != VOID)).sum())
    return count


def enlarged(folder: Path, count: int) -> Path:
    """``count`` synthetic images at the sizes of VOC's, in VOC's layout, below ``folder``."""
    small = VOCData(synthetic.make(folder / "small", 1, count), "val", dict(enumerate(config.SYNTHETIC_CLASSES)))
    root = folder / "enlarged"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for number, name in enumerate(small.names):
        image, label = (Image.fromarray(array) for array in small[number])
        size = SIZES[number % len(SIZES)]
        image.resize(size, Image.Resampling.BICUBIC).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        label.resize(size, Image.Resampling.NEAREST).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(small.names) + "\n")
    return root


def render(result: dict) -> str:
    """The measurements as text."""
    settings = result["settings"]
    network = settings["weights"] or "torchvision's ResNet-50, random weights"
    lines = [
        f"evaluation of {result['images']} whole images ({settings['data'] or 'synthetic, enlarged'}), {network}, "
        f"output stride {settings['output_stride']}, {settings['padding']} padding, batch {settings['batch_size']}, medians "
        f"of {settings['rounds']} rounds",
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        "",
        f"{'':26}  images/s   speed  pixels that differ of {result['pixels']}",
    ]
    for row in result["rows"]:
        end = "" if row["differing_pixels"] is None else f"{row['differing_pixels']:18}"
        lines.append(f"{row['name']:26}  {row['images_per_second']:10.3f}  {row['speed']:5.2f}x  {end}".rstrip())
    return "\n".join(lines)

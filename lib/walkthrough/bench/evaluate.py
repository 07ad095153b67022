"""``deeplabv3 bench evaluate``: evaluation of whole images, ours beside torchvision's reference loop.

The loop is that of torchvision's references/segmentation (``evaluate()`` and its ``ConfusionMatrix``): one image at a
time through the unmodified network. Both read the same files, padded alike, and run the same network. The loop does
not resize images and labels as torchvision's does, since that changes the metric.
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
from walkthrough.bench.model import randomize_statistics
from walkthrough.bench.timing import describe_machine, threads, time_interleaved

SIZES = ((500, 375), (500, 333), (500, 375), (375, 500))
"""Width and height of the enlarged synthetic images: the most frequent ones in VOC."""


@dataclass(frozen=True)
class EvaluationBench:
    """Settings of the benchmark."""

    weights: str = ""  # as predict takes them; empty: torchvision's ResNet-50 with random weights
    data: str = ""  # a folder in VOC's layout; empty: synthetic images enlarged to VOC's sizes
    images: int = 8  # the first ones of the list val
    output_stride: int = 8
    padding: str = "tight"
    batch_size: int = 1  # of ours; torchvision's loop has 1
    rounds: int = 5  # timings of each variant
    device: str = "cpu"
    threads: int = 0  # on the CPU; 0: PyTorch's own choice
    workers: int = 0  # processes that read for torchvision's loop; ours has threads
    bf16: bool = False  # with a row in bfloat16

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
        """Inference at a single scale without flip."""
        return EvaluationConfig(self.output_stride, padding=self.padding, precision="bfloat16" if bf16 else "float32")

    def run(self) -> dict:
        """Measure and return JSON values.

        A row has images per second, the speed relative to torchvision's loop, and the number of pixels, of the
        ``pixels`` that are not void, whose class differs from the loop's.
        """
        with threads(self.threads), tempfile.TemporaryDirectory() as folder:
            reference, ours, classes = self._networks()
            data = VOCData(self.data or enlarged(Path(folder), self.images), "val", classes)
            data.names = data.names[: self.images]
            samples = _Samples(data, self.strategy())
            loader = DataLoader(samples, num_workers=self.workers, persistent_workers=self.workers > 0)
            variants = {"ours, unmodified network": (ours, False), "ours": (optimize_for_inference(ours), False)}
            if self.bf16:
                variants["ours in bf16"] = (optimize_for_inference(ours), True)
            calls: dict[str, Callable] = {"torchvision's loop": partial(reference_loop, reference, loader, self.device)}
            for name, (network, bf16) in variants.items():
                calls[name] = partial(evaluate, network, data, self.strategy(bf16), self.batch_size)
            timings = time_interleaved("evaluation", calls, self.rounds, self.device)
            images = [data[index][0] for index in range(len(data))]
            differing = {
                name: _count_differing(
                    reference, loader, predict_batches(network, images, self.strategy(bf16), self.batch_size)
                )
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
                        "name": timing.name,
                        "images_per_second": len(data) / timing.median,
                        "speed": timings[0].median / timing.median,
                        "differing_pixels": differing.get(timing.name),
                        "seconds": timing.seconds,
                    }
                    for timing in timings
                ],
            }

    def _networks(self) -> tuple[nn.Module, DeepLabV3, dict[int, str]]:
        """Return the network for torchvision's loop, ours with the same weights, and label value to class name."""
        classes = dict(enumerate(VOC_CLASSES if self.data else config.SYNTHETIC_CLASSES))
        if self.weights:
            ours, classes = load_weights(self.weights)
            reference: nn.Module = _AsTorchvision(deepcopy(ours).set_output_stride(self.output_stride))
        else:
            torch.manual_seed(0)
            reference = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
            randomize_statistics(reference)
            ours = from_torchvision(reference)
        return reference.to(self.device).eval(), ours.to(self.device).eval(), classes


class _AsTorchvision(nn.Module):
    """Our network with the output of torchvision's: a dictionary with the logits as ``out``."""

    def __init__(self, network: DeepLabV3):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.network(images)}


class _Samples(Dataset):
    """Padded images ``(3, H, W)`` normalized, and labels ``(H, W)`` int64 with void padding, for torchvision's loop."""

    def __init__(self, data: VOCData, strategy: EvaluationConfig):
        self.data, self.strategy = data, strategy

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        size = padded_size(label.shape[0], label.shape[1], self.strategy)
        normalized = transforms.normalize(transforms.to_tensor(pad(image, size)), MEAN, STD)
        padded = np.full(size, VOID, dtype=np.int64)
        padded[: label.shape[0], : label.shape[1]] = label
        return normalized, torch.from_numpy(padded)


def reference_loop(network: nn.Module, loader: DataLoader, device: str) -> np.ndarray:
    """Confusion matrix ``(K, K)`` of all images, computed as torchvision's reference script does."""
    matrix = torch.zeros(0)
    with torch.inference_mode():
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            logits = network(images)["out"]  # (1, K, H, W)
            truth, prediction, classes = labels.flatten(), logits.argmax(1).flatten(), logits.shape[1]
            if not len(matrix):
                matrix = torch.zeros((classes, classes), dtype=torch.int64, device=device)
            valid = (truth >= 0) & (truth < classes)
            cells = classes * truth[valid].to(torch.int64) + prediction[valid]
            matrix += torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
    return matrix.cpu().numpy()


def _count_differing(network: nn.Module, loader: DataLoader, predictions: Iterable[np.ndarray]) -> int:
    """Number of pixels that are not void and whose class differs between ``predictions`` and torchvision's loop."""
    count = 0
    with torch.inference_mode():
        for (images, labels), ours in zip(loader, predictions, strict=True):
            reference = network(images.to(next(network.parameters()).device))["out"].argmax(1)[0].cpu().numpy()
            height, width = ours.shape
            truth = labels[0, :height, :width].numpy()
            count += int(((reference[:height, :width] != ours) & (truth != VOID)).sum())
    return count


def enlarged(folder: Path, count: int) -> Path:
    """Write ``count`` synthetic images at VOC's sizes below ``folder``; the root of this data set in VOC's layout."""
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
    """Format the measurements."""
    settings = result["settings"]
    network = settings["weights"] or "torchvision's ResNet-50, random weights"
    lines = [
        f"evaluation of {result['images']} whole images ({settings['data'] or 'synthetic, enlarged'}), {network}, "
        f"output stride {settings['output_stride']}, {settings['padding']} padding, batch {settings['batch_size']}, "
        f"medians of {settings['rounds']} rounds",
        ", ".join(f"{name} {value}" for name, value in result["machine"].items()),
        "",
        f"{'':26}  images/s   speed  pixels that differ of {result['pixels']}",
    ]
    for row in result["rows"]:
        end = "" if row["differing_pixels"] is None else f"{row['differing_pixels']:18}"
        lines.append(f"{row['name']:26}  {row['images_per_second']:10.3f}  {row['speed']:5.2f}x  {end}".rstrip())
    return "\n".join(lines)

"""``deeplabv3 bench evaluate``: evaluation of whole images, ours beside torchvision's reference loop.

The loop is that of torchvision's references/segmentation (``evaluate()`` and its ``ConfusionMatrix``): one image at a
time through the unmodified network. Both read the same files, padded alike, and run the same network, on a GPU in TF32
(PyTorch's default) and with the same choice of algorithms. The loop does not resize images and labels as torchvision's
does, since that changes the metric.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
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
from deeplabv3.data.transforms import pad, padded_size
from deeplabv3.data.voc import VOCData
from deeplabv3.device import compute_settings
from deeplabv3.errors import UserError, require
from deeplabv3.evaluation.inference import evaluate, predict_batches
from deeplabv3.evaluation.predict import load_weights
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.pretrained import load_pretrained
from deeplabv3.model.weights import from_torchvision
from walkthrough import paths
from walkthrough.bench.model import randomize_statistics
from walkthrough.bench.timing import describe_machine, threads, time_interleaved

COMMON_SIZES = {(500, 375): 43, (500, 333): 11, (375, 500): 9, (333, 500): 4, (500, 332): 3, (500, 334): 2}
"""Width and height of the commonest images of VOC 2012, with their shares in percent."""


@dataclass(frozen=True)
class EvaluationBench:
    """Settings of the benchmark."""

    weights: str = ""  # as predict takes them; empty: torchvision's ResNet-50 with random weights
    data: str = ""  # a folder in VOC's layout; empty: synthetic images enlarged to VOC's sizes
    images: int = 8  # the first ones of the list val
    output_stride: int = 8
    padding: str = "tight"  # or "crop", which gives all images one size
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

    def strategy(self) -> EvaluationConfig:
        """Inference at a single scale without flip."""
        precision = "tf32" if self.device == "cuda" else "float32"
        return EvaluationConfig(self.output_stride, padding=self.padding, precision=precision)

    def run(self) -> dict:
        """Measure and return JSON values.

        A row has images per second, the speed relative to torchvision's loop, and the number of pixels, of the
        ``pixels`` that are not void, whose class differs from the loop's: both in float32 for this, even on a GPU, or
        ours in bfloat16.
        """
        with threads(self.threads), tempfile.TemporaryDirectory() as folder:
            reference, ours, classes = self._networks()
            root = self.data or enlarged(Path(folder), self.images)
            data = VOCData(root, "val", classes, unlisted_labels="ignore")  # neither loop counts them
            data.names = data.names[: self.images]
            strategy = self.strategy()
            loader = DataLoader(
                _Samples(data, strategy, ours.config), num_workers=self.workers, persistent_workers=self.workers > 0
            )
            variants = {"ours, unmodified network": (ours, strategy), "ours": (optimize_for_inference(ours), strategy)}
            if self.bf16:
                strategy = replace(strategy, precision="bfloat16")
                variants["ours in bf16"] = (optimize_for_inference(ours, precision=strategy.precision), strategy)
            if self.device == "cuda" and self.padding == "crop":  # one size
                network = optimize_for_inference(ours, compiled=True, precision=strategy.precision)
                if _succeeds(partial(evaluate, network, data, strategy, self.batch_size)):
                    variants[f"{list(variants)[-1]}, compiled"] = (network, strategy)
            calls: dict[str, Callable] = {"torchvision's loop": partial(self._reference, reference, loader)}
            for name, variant in variants.items():
                calls[name] = partial(evaluate, variant[0], data, variant[1], self.batch_size)
            timings = time_interleaved("evaluation", calls, self.rounds, self.device)
            samples = [data[index] for index in range(len(data))]
            differing = {}
            for name, (network, strategy) in variants.items():
                exact = replace(strategy, precision="bfloat16" if strategy.precision == "bfloat16" else "float32")
                predictions = predict_batches(network, (image for image, _ in samples), exact, self.batch_size)
                with compute_settings("float32"):
                    differing[name] = _count_differing(reference, loader, predictions)
            return {
                "bench": "evaluate",
                "settings": asdict(self) | {"weights": Path(self.weights).name, "data": Path(self.data).name},
                "machine": describe_machine(self.device, ("torch", "torchvision")),
                "images": len(data),
                "pixels": sum(int((label != VOID).sum()) for _, label in samples),
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

    def _reference(self, network: nn.Module, loader: DataLoader) -> np.ndarray:
        """torchvision's loop with the precision of ours, and cuDNN's trials of algorithms where ours has them."""
        with compute_settings(self.strategy().precision, one_size=self.padding == "crop"):
            return reference_loop(network, loader, self.device)

    def _networks(self) -> tuple[nn.Module, DeepLabV3, dict[int, str]]:
        """Return the network for torchvision's loop, ours with the same weights, and label value to class name."""
        classes = dict(enumerate(VOC_CLASSES if self.data else config.SYNTHETIC_CLASSES))
        if self.weights:
            if self.weights == "pretrained":
                ours, classes = load_pretrained()
            else:
                named = self.weights.startswith("torchvision")
                ours, classes = load_weights(self.weights if named else str(paths.find_checkpoint(self.weights)))
            reference: nn.Module = _AsTorchvision(deepcopy(ours).set_output_stride(self.output_stride))
        else:
            torch.manual_seed(0)
            reference = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
            randomize_statistics(reference)
            ours = from_torchvision(reference)
        return reference.to(self.device).eval(), ours.to(self.device).eval(), classes


def _succeeds(compiled: Callable[[], object]) -> bool:
    """Call what has to be compiled first; on a machine where that fails, the other variants are still measured."""
    try:
        compiled()
    except Exception as error:
        warnings.warn(f"there is no row for torch.compile, which failed: {error}", stacklevel=2)
        return False
    return True


class _AsTorchvision(nn.Module):
    """Our network with the output of torchvision's: a dictionary with the logits as ``out``."""

    def __init__(self, network: DeepLabV3):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.network(images)}


class _Samples(Dataset):
    """Padded images ``(3, H, W)`` normalized, and labels ``(H, W)`` int64 with void padding, for torchvision's loop."""

    def __init__(self, data: VOCData, strategy: EvaluationConfig, network: config.ModelConfig):
        self.data, self.strategy, self.network = data, strategy, network

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[index]
        size = padded_size(label.shape[0], label.shape[1], self.strategy)
        padded_image = pad(image, size, color=self.network.mean_pixel)
        normalized = transforms.normalize(transforms.to_tensor(padded_image), self.network.mean, self.network.std)
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


def voc_sizes(count: int) -> list[tuple[int, int]]:
    """Widths and heights of ``count`` images, as various as VOC's: 445 of its list val have 110 sizes.

    The longer side of most others than the common ones is 500 too, and one of four is upright.
    """
    rng = np.random.default_rng(0)
    common = [*COMMON_SIZES]
    shares = [share / 100 for share in COMMON_SIZES.values()]
    sizes = []
    for number in rng.choice(len(common) + 1, count, p=[*shares, 1 - sum(shares)]):
        longer = 500 if rng.random() < 0.9 else int(rng.integers(300, 500))
        shorter = int(rng.integers(int(0.55 * longer), longer + 1))
        other = (shorter, longer) if rng.random() < 0.25 else (longer, shorter)
        sizes.append(common[number] if number < len(common) else other)
    return sizes


def enlarged(folder: Path, count: int) -> Path:
    """Write ``count`` synthetic images at VOC's sizes below ``folder``; the root of this data set in VOC's layout."""
    small = VOCData(synthetic.make(folder / "small", 1, count), "val", dict(enumerate(config.SYNTHETIC_CLASSES)))
    root = folder / "enlarged"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for number, (name, size) in enumerate(zip(small.names, voc_sizes(count), strict=True)):
        image, label = (Image.fromarray(array) for array in small[number])
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

"""Scaling, cropping, padding and normalization of images and labels (Section 4.1)."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deeplabv3.config import MEAN, SCALES, STD, VOID, EvaluationConfig, ModelConfig
from deeplabv3.errors import UserError

MEAN_PIXEL = ModelConfig().mean_pixel


def random_crop(
    image: np.ndarray,
    label: np.ndarray,
    crop_size: int,
    rng: np.random.Generator,
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
    color: tuple[int, ...] = MEAN_PIXEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Random crop of an image and its label: scaled, padded at the bottom and right, cropped, perhaps flipped.

    Returns ``(crop_size, crop_size, 3)`` and ``(crop_size, crop_size)``, both uint8. Only the part of the image that
    the crop shows is resized, which is much faster; it differs from a crop of the resized image by rounding.

    Args:
        image: ``(H, W, 3)`` uint8
        label: ``(H, W)`` uint8; padded with 255
        crop_size: pixels a side
        rng: source of the random numbers
        scales: drawn from at random
        flip: flip left to right with probability 1/2
        color: that the image is padded with
    """
    height, width = label.shape
    scale = scales[rng.integers(len(scales))]
    scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(rng.integers(max(scaled_height - crop_size, 0) + 1))
    left = int(rng.integers(max(scaled_width - crop_size, 0) + 1))
    crop_height, crop_width = min(crop_size, scaled_height - top), min(crop_size, scaled_width - left)
    y, x = height / scaled_height, width / scaled_width  # pixels of the image to a pixel of the scaled image
    box = (left * x, top * y, min((left + crop_width) * x, width), min((top + crop_height) * y, height))
    flipped = flip and bool(rng.integers(2))

    def cut(array: np.ndarray, method: Image.Resampling, padding: int | tuple[int, ...]) -> np.ndarray:
        # Pillow pads and mirrors five times faster than numpy, which goes pixel by pixel where a pixel is three bytes.
        resized = Image.fromarray(array).resize((crop_width, crop_height), method, box)
        if resized.size != (crop_size, crop_size):
            padded = Image.new(resized.mode, (crop_size, crop_size), padding)
            padded.paste(resized)
            resized = padded
        return np.asarray(resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else resized)

    return cut(image, Image.Resampling.BILINEAR, color), cut(label, Image.Resampling.NEAREST, VOID)


def require_image(image: np.ndarray) -> None:
    """Refuse what is no RGB image ``(H, W, 3)`` uint8: floats from 0 to 1, for one, would all become black."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"an image has shape {image.shape} and type {image.dtype}; give RGB, (H, W, 3) uint8.")


def normalize(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Images ``(N, H, W, 3)`` uint8 as ``(N, 3, H, W)`` float32 with mean and standard deviation removed."""
    mean_, std_ = (_filled(values, images.device) for values in (mean, std))  # each (3, 1, 1)
    return (images.permute(0, 3, 1, 2).float() / 255 - mean_) / std_


def _filled(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values as ``(3, 1, 1)``, made on the device: a copy to a GPU would wait for all that the GPU has to do."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])


def padded_size(height: int, width: int, config: EvaluationConfig) -> tuple[int, int]:
    """Height and width of an image after padding, as it enters the network."""

    def padded(length: int) -> int:
        if config.padding == "crop" and length <= config.crop_size:
            return config.crop_size
        stride = config.output_stride
        return -(-(length - 1) // stride) * stride + 1  # the next k * stride + 1

    return padded(height), padded(width)


def pad(
    image: np.ndarray, size: tuple[int, int], padded: np.ndarray | None = None, color: tuple[int, ...] = MEAN_PIXEL
) -> np.ndarray:
    """Image ``(H, W, 3)`` in the top left corner of one ``(*size, 3)`` uint8 of one color, which may be given."""
    padded = np.empty((*size, 3), dtype=np.uint8) if padded is None else padded
    height, width, _ = image.shape
    border = np.full((size[1], 3), color, dtype=np.uint8)  # whole rows are copied faster than pixel by pixel
    padded[:height, :width], padded[:height, width:], padded[height:] = image, border[width:], border
    return padded

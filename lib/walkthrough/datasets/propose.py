"""Steps, batch, crop and precision that fit a data set and this machine, for a network with MobileNetV2."""

from collections.abc import Sequence
from statistics import median

from deeplabv3.device import has_bfloat16
from deeplabv3.machine import available_memory

CROP, BATCH = 257, 8
"""Of the profile ``mobile``, which is for a CPU."""

SMALLEST = 65
"""The smallest crop: 5 x 5 features at output stride 16."""

PASSES = 40
"""How often training shows each image, between the bounds of :data:`STEPS`."""

STEPS = (500, 2500)

BYTES_PER_PIXEL = 3_500
"""Memory that training takes for a pixel of a batch, at output stride 16 and in float32."""


def propose(sizes: Sequence[tuple[int, int]], train_images: int) -> dict[str, int | str]:
    """``iterations``, ``batch_size``, ``crop_size`` and ``precision`` for images of these widths and heights.

    The crop is no larger than most images are, the batch fits into half of the free memory, and the steps show each
    image 40 times, or as often as 2,500 steps do. The precision is bfloat16 where the machine computes in it.
    """
    longer = int(median(max(size) for size in sizes))
    crop = max(SMALLEST, min(CROP, -(-longer // 16) * 16 + 1))
    fitting = available_memory() // 2 // (BYTES_PER_PIXEL * crop**2)
    batch = max(1, min(BATCH, fitting, train_images))
    steps = max(STEPS[0], min(STEPS[1], -(-PASSES * train_images // batch // 100) * 100))
    precision = "bfloat16" if has_bfloat16() else "float32"
    return {"iterations": steps, "batch_size": batch, "crop_size": crop, "precision": precision}

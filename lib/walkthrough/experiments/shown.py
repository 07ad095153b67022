"""A trained network with ground truth to look at: on photographs where VOC is at hand, else under the profile."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from deeplabv3.config import MULTI_SCALE, EvaluationConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.evaluation.inference import confusion_per_image
from deeplabv3.evaluation.metrics import mean_iou
from deeplabv3.model.checkpoint import load_model
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.pretrained import load_pretrained
from walkthrough.experiments.local import run_live, run_missing
from walkthrough.paper import tables
from walkthrough.profiles import Profile, load_profile
from walkthrough.records.catalogue import all_counts
from walkthrough.records.cells import cell_job

PRETRAINED = "aspp-mobilenet_v2-os16-6b74e3ab9bc2"
"""Record, of the profile ``mobile``, of the network that comes with the library."""

LIVE_IMAGES = 60
"""Images of a list without a record that are evaluated."""


@dataclass(frozen=True)
class Shown:
    """A network, a list of images, and the counts ``(images, K, K)`` of each image by strategy, the coarsest first."""

    title: str
    network: DeepLabV3
    data: VOCData
    strategies: Mapping[str, EvaluationConfig]
    counts: Mapping[str, np.ndarray]

    def miou(self, strategy: str) -> np.ndarray:
        """mIoU of each image by itself ``(images,)``; NaN where all of it is void."""
        return np.array([mean_iou(matrix) for matrix in self.counts[strategy]])


def recorded_counts() -> dict[EvaluationConfig, np.ndarray]:
    """Counts ``(images, K, K)`` of the network in the library on VOC's animals, by strategy, from its record."""
    return all_counts("mobile", PRETRAINED)


def strategies(coarse: EvaluationConfig) -> dict[str, EvaluationConfig]:
    """Three strategies of Tables 4 and 6, one on top of the other, from the first."""
    fine = replace(coarse, output_stride=8)
    last = replace(fine, scales=MULTI_SCALE, flip=True)
    return {f"output stride {coarse.output_stride}": coarse, "output stride 8": fine, "8, six scales, flip": last}


def shown(profile: Profile) -> Shown:
    """The network in the library on VOC's animals, if their images are there; else the profile's best ASPP network.

    A profile with images of its own keeps them. The profile's network is trained here if it is missing. Counts come
    from the records; of a list without one the first :data:`LIVE_IMAGES` images are evaluated.
    """
    mobile = load_profile("mobile")
    if profile.name == mobile.name or (profile.data.kind == "synthetic" and mobile.data_root().is_dir()):
        network, data = load_pretrained()[0], mobile.open_data()
        ways = strategies(replace(mobile.evaluation, output_stride=16))
        # Six scales and flip are recorded in bfloat16, which takes a third of the time.
        recorded = {replace(way, precision="float32"): counts for way, counts in recorded_counts().items()}
        counts = {name: recorded[way] for name, way in ways.items() if way in recorded}
        if len(counts) < len(ways) or len(counts[next(iter(ways))]) != len(data):
            counts = {name: _counted(network, data, way) for name, way in ways.items()}
        return Shown("the network in the library, VOC 2012 animals", network, data, ways, counts)
    run, coarse = cell_job(tables.load(6).cells[0], profile)
    ways = strategies(coarse)
    run_live([(run, coarse)], "predictions")
    run_missing([(run, way) for way in ways.values()], "predictions")
    counts = {name: found for name, way in ways.items() if (found := run.confusion_counts(way)) is not None}
    title = f"profile {profile.name}, {run.config.backbone} with ASPP"
    return Shown(title, load_model(run.checkpoint)[0], profile.open_data(), ways, counts)


def _counted(network: DeepLabV3, data: VOCData, strategy: EvaluationConfig) -> np.ndarray:
    """Confusion matrices of the first images ``(images, K, K)``."""
    found = confusion_per_image(network, data, strategy, indices=range(min(len(data), LIVE_IMAGES)))
    return np.stack([counts for _, counts in sorted(found, key=lambda pair: pair[0]) if isinstance(counts, np.ndarray)])

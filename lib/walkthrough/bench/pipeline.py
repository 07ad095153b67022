"""``deeplabv3 bench pipeline``: training crops without a network, by the number of data workers.

What comes out is whether the processor keeps a card busy, and with how many workers.
"""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.config import VOC_CLASSES
from deeplabv3.data.loader import TrainingSamples, batches, collate
from deeplabv3.data.transforms import random_crop
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import require
from walkthrough.bench.evaluate import enlarged
from walkthrough.bench.timing import describe_machine

MARGIN = 1.3
"""How much more than the card takes the pipeline should deliver."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def all_workers() -> tuple[int, ...]:
    """No worker, then 1, 2, 4 … up to the cores."""
    return (0, *sorted({*(2**power for power in range(cores().bit_length())), cores()}))


@dataclass(frozen=True)
class PipelineBench:
    """What to measure: ``batches`` batches a turn, of images read from files and of images decoded in memory.

    ``data`` is a folder in VOC's layout, or nothing for ``images`` synthetic ones enlarged to VOC's sizes; ``target_rate`` is
    how many crops a second the card takes. ``workers`` () stands for none up to one a core.
    """

    data: str = ""
    list_name: str = "train"
    images: int = 64
    crop_size: int = 513
    batch_size: int = 16
    workers: tuple[int, ...] = ()
    batches: int = 16
    rounds: int = 5
    target_rate: float = 533.0

    def __post_init__(self):
        object.__setattr__(self, "workers", tuple(self.workers))
        for name, lowest in (("images", 1), ("crop_size", 1), ("batch_size", 1), ("batches", 1), ("rounds", 3)):
            require(getattr(self, name) >= lowest, name, getattr(self, name), f"a whole number of at least {lowest}")
        require(min(self.workers, default=0) >= 0, "workers", self.workers, "whole numbers of at least 0")
        require(self.target_rate > 0, "target_rate", self.target_rate, "a number of crops a second above 0")

    def run(self) -> dict:
        """Measure. Returns JSON values: ``rows`` holds crops a second by source and number of workers, ``parts`` where
        a core spends the seconds of a crop.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = self._open(Path(folder), cache=False)
            sources = {"files": files, "memory": self._open(Path(folder), cache=None)}
            if sources["memory"].cached:
                sources["memory"].cache_all()
            else:
                del sources["memory"]
            samples = {name: TrainingSamples(data, self.crop_size, self.batch_size, seed=0) for name, data in sources.items()}
            pairs = [(name, workers) for workers in self.workers or all_workers() for name in samples]
            found: dict[tuple[str, int], list[tuple[float, float]]] = {pair: [] for pair in pairs}
            turns = [pair for _ in range(self.rounds + 1) for pair in pairs]  # the first finds the disk cold
            for turn, (name, workers) in enumerate(tqdm(turns, desc="pipeline", unit="turn", disable=None)):
                times = self._turn(samples[name], workers)
                if turn >= len(pairs):
                    found[name, workers].append(times)
            return {
                "bench": "pipeline",
                "settings": asdict(self) | {"data": Path(self.data).name, "workers": list(self.workers)},
                "machine": describe_machine("cpu", ("torch", "pillow")) | {"cores": cores()},
                "images": len(files),
                "decoded_bytes": files.decoded_bytes(),
                "rows": [self._row(name, workers, times) for (name, workers), times in found.items()],
                "parts": self._parts(samples["files"]),
            }

    def _open(self, folder: Path, cache: bool | None) -> VOCData:
        if self.data:
            classes = dict(enumerate(VOC_CLASSES))
            return VOCData(self.data, self.list_name, classes, cache, unlisted_labels="void")
        root = folder / "enlarged"
        if not root.exists():
            enlarged(folder, max(self.images, self.batch_size))
        return VOCData(root, "val", dict(enumerate(config.SYNTHETIC_CLASSES)), cache)

    def _turn(self, samples: TrainingSamples, workers: int) -> tuple[float, float]:
        """Seconds a crop, once every worker has delivered its first batch, and the cores' seconds a crop."""
        started = max(1, workers)
        counted = started * math.ceil(self.batches / started)
        _, spent = self._stream(samples, workers, started, 0)
        seconds, busy = self._stream(samples, workers, started, counted)
        # What starting and ending the workers takes is the same both times.
        return seconds / counted / self.batch_size, (busy - spent) / counted / self.batch_size

    def _stream(self, samples: TrainingSamples, workers: int, started: int, counted: int) -> tuple[float, float]:
        """Seconds for ``counted`` batches after the first ``started``, and the cores' seconds for all of it."""
        busy = _busy()
        stream = batches(samples, 0, started + counted, self.batch_size, workers)
        for _ in range(started):
            next(stream)
        start = time.perf_counter()
        for _ in range(counted):
            next(stream)
        seconds = time.perf_counter() - start
        stream.close()  # the workers end, and their time is known
        return seconds, _busy() - busy

    def _row(self, source: str, workers: int, times: list[tuple[float, float]]) -> dict:
        seconds, core_seconds = (list(values) for values in zip(*times, strict=True))
        core = statistics.median(core_seconds)
        return {
            "source": source,
            "workers": workers,
            "crops_per_second": 1 / statistics.median(seconds),
            "core_seconds_per_crop": core,
            "cores_needed": MARGIN * self.target_rate * core,
            "seconds": seconds,
        }

    def _parts(self, samples: TrainingSamples) -> dict[str, float]:
        """Medians of one process."""
        numbers = range(self.batches * self.batch_size)
        read = [_timed(lambda n=n: samples.data[samples.index(n)]) for n in numbers]
        rng = np.random.default_rng(0)
        cut = [_timed(lambda item=item: random_crop(*item, self.crop_size, rng)) for item, _ in read]
        crops = [item for item, _ in cut]
        collated = [
            _timed(lambda n=n: collate(crops[n : n + self.batch_size]))[1] / self.batch_size for n in numbers[:: self.batch_size]
        ]
        return {
            "read and decode": statistics.median(seconds for _, seconds in read),
            "scale, crop and flip": statistics.median(seconds for _, seconds in cut),
            "collate": statistics.median(collated),
        }


def _timed(call: Callable) -> tuple:
    start = time.process_time()
    found = call()
    return found, time.process_time() - start


def _busy() -> float:
    """Seconds that this process and those of its workers that have ended kept cores busy, whatever else ran there."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def render(result: dict) -> str:
    """The measurements as text."""
    settings, machine = result["settings"], result["machine"]
    lines = [
        f"training crops {settings['crop_size']} x {settings['crop_size']}, batch {settings['batch_size']}, of {result['images']} "
        f"images ({settings['data'] or 'synthetic, enlarged'}; {result['decoded_bytes'] / 1e9:.2f} GB decoded), "
        f"medians of {settings['rounds']} turns of {settings['batches']} batches",
        ", ".join(f"{name} {value}" for name, value in machine.items()),
        "",
        f"from    workers  crops/s  a core's ms  cores for {MARGIN} x {settings['target_rate']:.0f} crops/s",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['source']:6}  {row['workers']:7}  {row['crops_per_second']:7.1f}  "
            f"{1000 * row['core_seconds_per_crop']:11.2f}  {row['cores_needed']:9.1f}"
        )
    if not any(row["source"] == "memory" for row in result["rows"]):
        lines.append("decoded, the images do not fit into a quarter of the free memory")
    parts = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in result["parts"].items())
    return "\n".join([*lines, "", f"where a core spends a crop's time: {parts}"])

"""``deeplabv3 bench pipeline``: training crops without a network, by the number of data workers.

It shows whether the CPU can keep a GPU busy, and with how many workers.
"""

import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.config import VOC_CLASSES, TrainingConfig
from deeplabv3.data.loader import TrainingSamples, batches, collate
from deeplabv3.data.transforms import random_crop
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import require
from deeplabv3.machine import available_cpus
from walkthrough.bench.evaluate import enlarged
from walkthrough.bench.timing import describe_machine

MARGIN = 1.3
"""The pipeline should deliver so many times the crops that the GPU needs."""


def all_workers() -> tuple[int, ...]:
    """Numbers of workers to try: none, then 1, 2, 4 … up to the number of cores."""
    cores = available_cpus()
    return (0, *sorted({*(2**power for power in range(cores.bit_length())), cores}))


@dataclass(frozen=True)
class PipelineBench:
    """Settings of the benchmark."""

    data: str = ""  # a folder in VOC's layout; empty: synthetic images enlarged to VOC's sizes
    list_name: str = "train"
    images: int = 64  # number of synthetic images
    crop_size: int = 513  # pixels a side
    batch_size: int = 16
    workers: tuple[int, ...] = ()  # numbers of workers to try; empty: none up to one a core
    batches: int = 16  # batches that are timed together
    rounds: int = 5  # timings of each variant
    target_rate: float = 533.0  # crops a second that the GPU needs

    def __post_init__(self):
        for name, lowest in (("images", 1), ("crop_size", 1), ("batch_size", 1), ("batches", 1), ("rounds", 3)):
            require(getattr(self, name) >= lowest, name, getattr(self, name), f"a whole number of at least {lowest}")
        require(min(self.workers, default=0) >= 0, "workers", self.workers, "whole numbers of at least 0")
        require(self.target_rate > 0, "target_rate", self.target_rate, "a number of crops a second above 0")

    def run(self) -> dict:
        """Measure and return JSON values.

        A row has the crops per second for one source (files, or images decoded in memory) and number of workers;
        ``parts`` divides the seconds of a crop on one core.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = self._open(Path(folder), cache=False)
            sources = {"files": files, "memory": self._open(Path(folder), cache=None)}
            if sources["memory"].cached:
                sources["memory"].cache_all()
            else:
                del sources["memory"]
            config = TrainingConfig(batch_size=self.batch_size, crop_size=self.crop_size)
            samples = {name: TrainingSamples(data, config, seed=0) for name, data in sources.items()}
            pairs = [(name, workers) for workers in self.workers or all_workers() for name in samples]
            times: dict[tuple[str, int], list[tuple[float, float]]] = {pair: [] for pair in pairs}
            calls = pairs * (self.rounds + 1)
            for number, (name, workers) in enumerate(tqdm(calls, desc="pipeline", unit="call", disable=None)):
                seconds = self._time_crop(samples[name], workers)
                if number >= len(pairs):  # in the first round the disk cache is cold
                    times[name, workers].append(seconds)
            return {
                "bench": "pipeline",
                "settings": asdict(self) | {"data": Path(self.data).name, "workers": list(self.workers)},
                "machine": describe_machine("cpu", ("torch", "pillow")) | {"cores": available_cpus()},
                "images": len(files),
                "decoded_bytes": files.decoded_bytes(),
                "rows": [self._row(name, workers, seconds) for (name, workers), seconds in times.items()],
                "parts": self._parts(samples["files"]),
            }

    def _open(self, folder: Path, cache: bool | None) -> VOCData:
        if self.data:
            classes = dict(enumerate(VOC_CLASSES))
            return VOCData(self.data, self.list_name, classes, cache, unlisted_labels="ignore")
        root = folder / "enlarged"
        if not root.exists():
            enlarged(folder, max(self.images, self.batch_size))
        return VOCData(root, "val", dict(enumerate(config.SYNTHETIC_CLASSES)), cache)

    def _time_crop(self, samples: TrainingSamples, workers: int) -> tuple[float, float]:
        """Seconds per crop after every worker's first batch, and CPU seconds per crop."""
        warmup = max(1, workers)
        timed = warmup * math.ceil(self.batches / warmup)
        _, start_cpu = self._time_batches(samples, workers, warmup, 0)
        seconds, cpu = self._time_batches(samples, workers, warmup, timed)
        # The difference is without the start and the end of the workers.
        return seconds / timed / self.batch_size, (cpu - start_cpu) / timed / self.batch_size

    def _time_batches(self, samples: TrainingSamples, workers: int, warmup: int, timed: int) -> tuple[float, float]:
        """Seconds of ``timed`` batches after ``warmup`` ones, and CPU seconds of everything."""
        cpu = _cpu_seconds()
        stream = batches(samples, 0, warmup + timed, workers)
        for _ in range(warmup):
            next(stream)
        start = time.perf_counter()
        for _ in range(timed):
            next(stream)
        seconds = time.perf_counter() - start
        stream.close()  # ends the workers, whose time is known only then
        return seconds, _cpu_seconds() - cpu

    def _row(self, source: str, workers: int, times: list[tuple[float, float]]) -> dict:
        seconds, core_seconds = (list(column) for column in zip(*times, strict=True))
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
        """Median CPU seconds of each part of a crop in one process."""
        numbers = range(self.batches * self.batch_size)
        read = [_timed(lambda n=n: samples.data[samples.index(n)]) for n in numbers]
        rng = np.random.default_rng(0)
        cut = [_timed(lambda item=item: random_crop(item[0], item[1], self.crop_size, rng)) for item, _ in read]
        crops = [item for item, _ in cut]
        collated = [
            _timed(lambda n=n: collate(crops[n : n + self.batch_size]))[1] / self.batch_size
            for n in numbers[:: self.batch_size]
        ]
        return {
            "read and decode": statistics.median(seconds for _, seconds in read),
            "scale, crop and flip": statistics.median(seconds for _, seconds in cut),
            "collate": statistics.median(collated),
        }


def _timed(call: Callable) -> tuple:
    """Result of ``call`` and its CPU seconds."""
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def render(result: dict) -> str:
    """Format the measurements."""
    settings, machine = result["settings"], result["machine"]
    lines = [
        f"training crops {settings['crop_size']} x {settings['crop_size']}, batch {settings['batch_size']}, "
        f"of {result['images']} "
        f"images ({settings['data'] or 'synthetic, enlarged'}; {result['decoded_bytes'] / 1e9:.2f} GB decoded), "
        f"medians of {settings['rounds']} rounds of {settings['batches']} batches",
        ", ".join(f"{name} {value}" for name, value in machine.items()),
        "",
        f"from    workers  crops/s    core's ms  cores for {MARGIN} x {settings['target_rate']:.0f} crops/s",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['source']:6}  {row['workers']:7}  {row['crops_per_second']:7.1f}  "
            f"{1000 * row['core_seconds_per_crop']:11.2f}  {row['cores_needed']:9.1f}"
        )
    if not any(row["source"] == "memory" for row in result["rows"]):
        lines.append("the decoded images do not fit into a quarter of the free memory")
    parts = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in result["parts"].items())
    return "\n".join([*lines, "", f"CPU time of a crop: {parts}"])

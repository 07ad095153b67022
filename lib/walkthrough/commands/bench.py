"""``deeplabv3 bench``: compare speeds with those of torchvision."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from walkthrough.commands.options import add_command


def add(subparsers: Any) -> None:
    text = "compare speeds with torchvision's"
    bench = subparsers.add_parser("bench", help=text, description=text[0].upper() + text[1:] + ".")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")

    kind = add_command(
        kinds,
        "model",
        partial(_bench, "model", "ModelBench"),
        "the network alone: ours, torchvision's, segmentation_models_pytorch's",
    )
    kind.add_argument("--backbone", choices=("resnet50", "resnet101"), default="resnet50")
    kind.add_argument("--size", type=int, default=513, help="side of the square images, in pixels (513)")
    kind.add_argument("--batch-size", type=int, default=1, help="images at once (1; training takes at least 2)")
    _rounds_option(kind, 9)
    kind.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave torch.compile out (it compiles for a minute)"
    )
    _inference_options(kind)

    kind = add_command(
        kinds,
        "evaluate",
        partial(_bench, "evaluate", "EvaluationBench"),
        "evaluation of whole images: ours and torchvision's reference loop",
    )
    text = "a run, a file or 'pretrained', with --data (default: ResNet-50, random weights)"
    kind.add_argument("--weights", default="", metavar="NETWORK", help=text)
    kind.add_argument("--data", default="", metavar="ROOT", help="VOC's layout (default: synthetic images, enlarged)")
    kind.add_argument("--images", type=int, default=8, help="how many of the list val (8; 512 suits a GPU)")
    kind.add_argument("--output-stride", type=int, default=8, help="8, or another with --weights")
    kind.add_argument("--padding", choices=("tight", "crop"), default="tight")
    kind.add_argument("--batch-size", type=int, default=1, help="images at once, for ours (1; 16 suits a GPU)")
    _rounds_option(kind, 5)
    kind.add_argument("--workers", type=int, default=0, help="processes that read for torchvision's loop (0)")
    _inference_options(kind)

    kind = add_command(
        kinds,
        "train",
        partial(_bench, "train", "TrainBench"),
        "a training step: ours, option by option, and that of torchvision's script",
    )
    _network_options(kind, "resnet101 or resnet50")
    _training_options(kind)
    _device_options(kind)
    _json_option(kind)

    kind = add_command(
        kinds,
        "step",
        partial(_bench, "step", "StepBench"),
        "our training step: by measure, what it waits for, what takes longest",
    )
    _network_options(kind, "resnet101, or another of the library's")
    _training_options(kind)
    modes = ("default", "reduce-overhead", "max-autotune-no-cudagraphs")
    kind.add_argument("--modes", nargs="+", choices=modes, default=modes[:2], help="of torch.compile, a row each")
    _device_options(kind)
    _json_option(kind)

    kind = add_command(
        kinds,
        "convolutions",
        partial(_bench, "convolutions", "ConvolutionBench"),
        "time and error of each convolution of a training step in bfloat16",
    )
    _network_options(kind, "resnet101, or another of the library's")
    _training_options(kind, compiled=False)
    _device_options(kind)
    _json_option(kind)

    kind = add_command(
        kinds, "gpu", bench_gpu, "all that a GPU can show, in the order of its value; goes on if repeated"
    )
    kind.add_argument("--minutes", type=float, default=30.0, help="begin nothing that takes longer than is left (30)")
    kind.add_argument("--steps", nargs="+", default=(), metavar="STEP", help="only these; the report has their names")
    kind.add_argument("--output", default="", metavar="FOLDER", help="gets the report, the weights and an archive")
    kind.add_argument("--backbone-weights", default="", metavar="FILE", help="ImageNet weights of MobileNetV2")
    kind.add_argument("--toy", action="store_true", help="try every step on the CPU with tiny networks, in minutes")

    kind = add_command(
        kinds,
        "pipeline",
        partial(_bench, "pipeline", "PipelineBench"),
        "training crops without a network, by the number of data workers",
    )
    kind.add_argument("--data", default="", metavar="ROOT", help="VOC's layout (default: synthetic images, enlarged)")
    kind.add_argument("--list", default="train", dest="list_name", help="which list of --data (train)")
    kind.add_argument("--images", type=int, default=64, help="how many synthetic images (64)")
    kind.add_argument("--crop-size", type=int, default=513, help="in pixels (513)")
    kind.add_argument("--batch-size", type=int, default=16, help="crops at once (16)")
    kind.add_argument("--workers", type=int, nargs="+", default=(), help="how many to try (none up to one a core)")
    kind.add_argument("--batches", type=int, default=16, help="batches that are timed together, at least (16)")
    _rounds_option(kind, 5)
    kind.add_argument(
        "--target-rate", type=float, default=533, help="crops a second that the GPU needs (533: 30 ms a step)"
    )
    _json_option(kind)

    kind = add_command(kinds, "all", bench_all, "model, train, evaluate and pipeline, one after the other")
    kind.add_argument("--data", default="", metavar="ROOT", help="VOC's layout (default: synthetic images, enlarged)")
    kind.add_argument("--images", type=int, default=8, help="images of the evaluation (8; 512 suits a GPU)")
    _training_options(kind)
    _device_options(kind)
    kind.add_argument("--json-folder", type=Path, metavar="FOLDER", help="write each one's measurements there")


def _network_options(kind: argparse.ArgumentParser, backbones: str) -> None:
    kind.add_argument("--backbone", default="resnet101", help=backbones)
    kind.add_argument("--output-stride", type=int, choices=(8, 16, 32), default=16)


def _training_options(kind: argparse.ArgumentParser, compiled: bool = True) -> None:
    kind.add_argument("--crop-size", type=int, help="in pixels (513; 257 on the CPU)")
    kind.add_argument("--batch-size", type=int, help="crops at once (16; 2 on the CPU)")
    kind.add_argument(
        "--rounds", type=int, help="timings of each variant (7; 3 on the CPU, interleaved; the median counts)"
    )
    kind.add_argument("--steps", type=int, help="training steps that are timed together (10; 1 on the CPU)")
    if compiled:
        text = "leave torch.compile out (it compiles for minutes)"
        kind.add_argument("--no-compile", dest="compiled", action="store_false", help=text)


def _rounds_option(kind: argparse.ArgumentParser, default: int) -> None:
    text = f"timings of each variant ({default}, interleaved; the median counts)"
    kind.add_argument("--rounds", type=int, default=default, help=text)


def _inference_options(kind: argparse.ArgumentParser) -> None:
    _device_options(kind)
    _json_option(kind)
    kind.add_argument("--bf16", action="store_true", help="add a row in bfloat16, whose logits differ")


def _device_options(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kind.add_argument("--threads", type=int, default=0, help="threads on the CPU (0: PyTorch's own choice)")


def _json_option(kind: argparse.ArgumentParser) -> None:
    kind.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there as well")


def _bench(module: str, kind: str, options: argparse.Namespace) -> int:
    """Run the benchmark ``kind`` of a module in ``walkthrough.bench``."""
    found = import_module(f"walkthrough.bench.{module}")
    return _measure(lambda: _settings(getattr(found, kind), options), found.render, options.json)


def _settings(kind: type, options: argparse.Namespace) -> Any:
    """A benchmark's settings from the options of the same names; what is not given has its default on the device."""
    given = {field.name: getattr(options, field.name, None) for field in fields(kind)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    own = getattr(kind, "on_cpu", {}) if given.get("device") == "cpu" else {}
    return kind(**own | {name: value for name, value in given.items() if value is not None})


def bench_gpu(options: argparse.Namespace) -> int:
    from walkthrough.bench.gpu import REPORT, GPUBench

    bench = GPUBench(options.minutes, options.output, options.backbone_weights, options.toy, tuple(options.steps))
    states = bench.run()
    print((bench.folder / REPORT).read_text())
    return int("failed" in states.values())


def bench_all(options: argparse.Namespace) -> int:
    from walkthrough.bench import evaluate, model, pipeline, train

    training = _settings(train.TrainBench, options)
    data, crop_size, batch, rounds = options.data, training.crop_size, training.batch_size, training.rounds
    shared = {"batch_size": batch, "rounds": rounds, "device": options.device, "threads": options.threads, "bf16": True}
    workers = 0 if options.device == "cpu" else 8  # for torchvision's loop, lest reading holds it up
    benches: dict[str, tuple[Callable[[], Any], Callable]] = {
        "model": (
            lambda: model.ModelBench(training.backbone, crop_size, compiled=training.compiled, **shared),
            model.render,
        ),
        "train": (lambda: training, train.render),
        "evaluate": (
            lambda: evaluate.EvaluationBench(data=data, images=options.images, workers=workers, **shared),
            evaluate.render,
        ),
        "pipeline": (
            lambda: pipeline.PipelineBench(data, crop_size=crop_size, batch_size=batch, rounds=rounds),
            pipeline.render,
        ),
    }
    folder, failed = options.json_folder, False
    files = {name: folder / f"{name}-{options.device}.json" if folder else None for name in benches}
    for file in files.values():
        _require_writable(file)
    for name, (make, render) in benches.items():
        try:
            _measure(make, render, files[name])
            print()
        except UserError as error:  # the other benchmarks still run
            failed = True
            print(f"bench {name}: {error}\n", file=sys.stderr)
    return int(failed)


def _measure(make: Callable[[], Any], render: Callable[[dict], str], file: Path | None) -> int:
    from deeplabv3.files import write_atomically

    _require_writable(file)
    result = make().run()
    print(render(result))
    if file:
        write_atomically(file, json.dumps(result, indent=1) + "\n")
        print(f"written to {file}")
    return 0


def _require_writable(file: Path | None) -> None:
    """Refuse a file that cannot be written, before minutes of measuring."""
    if file and not file.parent.is_dir():
        raise UserError(f"folder {file.parent} for the measurements does not exist; make it first.")
    if file and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise UserError(f"{file} cannot be written; name a file in a folder where you may write.")

"""``deeplabv3 train``: train one network and evaluate it on whole images, in one process or in torchrun's."""

import argparse
import shutil
import time
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.config import HEADS
from deeplabv3.errors import UserError
from walkthrough.commands.evaluate import show_evaluation, start_at
from walkthrough.commands.options import add_profile_command, data_options, profile_of

if TYPE_CHECKING:
    from deeplabv3.distributed import ProcessGroup
    from walkthrough.profiles import ModelSection, Profile
    from walkthrough.records.run import Run

NETWORK = ("backbone", "head", "output_stride", "multi_grid", "last_block", "atrous_rates", "image_pooling")
"""Settings of the profile that have an option here."""


def add(subparsers: Any) -> None:
    """Add the command."""
    parser = add_profile_command(subparsers, "train", main, "train one network and evaluate it on whole images")
    data_options(parser)
    parser.add_argument(
        "--backbone-weights", metavar="FILE", help="ImageNet weights: a file, or 'imagenet' to download"
    )
    parser.add_argument(
        "--init-from", metavar="NETWORK",
        help="start from this network and its weights: a run or a file of ours, 'pretrained' (it comes with the "
        "library), 'torchvision', 'torchvision:resnet50' (downloaded), or a file of torchvision's or VainF's DeepLabV3",
    )  # fmt: skip
    parser.add_argument(
        "--new-classes", action="store_true",
        help="with --init-from: its classes are others; those of equal name keep their weights, the others are new",
    )  # fmt: skip
    parser.add_argument("--backbone", choices=("resnet50", "resnet101"), help="as the paper names it (resnet101)")
    parser.add_argument("--head", choices=HEADS, help="by default the profile's, or aspp")
    parser.add_argument("--output-stride", type=int, help="by default the profile's")
    parser.add_argument(
        "--multi-grid", type=int, nargs=3, metavar="RATE",
        help="unit rates (the profile's, or 1 2 4 with aspp and 1 1 1 with others)",
    )  # fmt: skip
    parser.add_argument("--last-block", type=int, help="4 (default), or 5 to 7 for the cascade")
    parser.add_argument(
        "--rates", dest="atrous_rates", type=int, nargs="*", help="ASPP rates as the paper has them (6 12 18)"
    )
    parser.add_argument("--no-image-pooling", dest="image_pooling", action="store_false", default=None)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resume the run (default), or archive its folder and begin again",
    )
    parser.add_argument(
        "--save-profile", type=Path, metavar="FILE", help="write all settings of the run to this YAML file, a profile"
    )
    parser.add_argument("--dry-run", action="store_true", help="print steps and estimated hours; train nothing")
    parser.add_argument(
        "--validate-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="steps between validations, which keep the best network as best.safetensors (0: none)",
    )


def main(options: argparse.Namespace) -> int:
    """Run the command."""
    from deeplabv3.distributed import init_distributed, is_elastic_restart

    if options.validate_every < 0:
        raise UserError(f"--validate-every is {options.validate_every}; it takes a whole number of at least 0.")
    if options.dry_run:
        _show_plan(_profile(options), options)
        return 0
    with init_distributed() as processes:
        profile = _profile(options)
        if processes.is_main:
            profile.data_root()  # synthetic data is made here once
        processes.barrier()
        run = _run(profile, options)
        if processes.is_main:
            if options.save_profile is not None:
                _save_profile(profile, options.save_profile)
            print(f"run {run.name}\nfolder {run.folder}")
            if note := crop_note(run.training.crop_size, run.config.output_stride, run.config.align_corners):
                print(note)
            if profile.model.init_from:
                print(_start_note(run))
            if not options.resume and not is_elastic_restart():
                _archive(run)
            _look_at_finished(run, options.validate_every)
        processes.barrier()
        _train(run, processes, options.validate_every)
    return 0


def _profile(options: argparse.Namespace) -> "Profile":
    profile = profile_of(options)
    given = {name: value for name in NETWORK if (value := getattr(options, name)) is not None}
    if both := [f"model.{name}" for name in given if any(pair.startswith(f"model.{name}=") for pair in options.set)]:
        raise UserError(f"setting {both[0]!r} is given by --set and by an option; give one of them.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    profile = replace(profile, model=replace(profile.model, **given))
    if options.seed is not None:
        profile = replace(profile, seed=options.seed)
    if options.init_from is not None:
        profile = replace(profile, model=replace(profile.model, init_from=options.init_from))
    if options.new_classes:
        profile = replace(profile, model=replace(profile.model, new_classes=True))
    if profile.model.init_from == "?" and options.dry_run:  # the network is that of the profile
        profile = replace(profile, model=replace(profile.model, init_from=""))
    if profile.model.init_from == "?":
        raise UserError(f"profile {profile.name!r} starts from a checkpoint; name it with --init-from.")
    return profile


def _run(profile: "Profile", options: argparse.Namespace) -> "Run":
    from walkthrough.records import start
    from walkthrough.records.run import Run

    model = profile.model
    head = model.head or "aspp"
    _refuse_idle(options, model, head)
    config = profile.model_config(
        model.backbone or "resnet101",
        head=head,
        output_stride=model.output_stride,
        multi_grid=model.multi_grid or ((1, 2, 4) if head == "aspp" else (1, 1, 1)),
        last_block=model.last_block or 4,
        atrous_rates=(6, 12, 18) if model.atrous_rates is None else model.atrous_rates,
        image_pooling=model.image_pooling is not False,
    )
    if model.init_from:
        given = {name for name in (*NETWORK, "mean", "std") if getattr(model, name) is not None}
        config = start.config_from(start.load(start.find(model.init_from)), config, given)
    return Run.of(profile, config)


def _show_plan(profile: "Profile", options: argparse.Namespace) -> None:
    """Print the run's steps, its hours and, where a step is timed on a GPU, its memory."""
    import torch

    from walkthrough.experiments import estimate, sweep
    from walkthrough.experiments.task import Task, tasks_of
    from walkthrough.records.compare import duration

    def show(run: "Run", task: Task, name: str) -> None:
        training, recorded = run.training, estimate.recorded_speed(profile)
        speed = recorded or estimate.timed_speed([task])
        left = training.iterations - task.steps_done()
        print(f"run {name}, seed {run.seed}")
        print(
            f"{left:,} steps of {training.batch_size} crops of {training.crop_size} pixels at output stride "
            f"{run.config.output_stride} and an evaluation: about {duration(speed.seconds(task))}, estimated "
            f"{speed.source}"
        )
        if recorded is None and torch.cuda.is_available():
            print(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory in a step")

    strategy = replace(profile.evaluation, output_stride=profile.model.output_stride)
    try:
        run = _run(profile, options)
        (task,) = tasks_of([(run, strategy)])
    except UserError as error:
        if profile.data.kind != "voc":
            raise
        with sweep.without_images(profile) as (stand_in, images):
            run = _run(stand_in, options)
            show(run, Task(run, (strategy,), images), run.name.rpartition("-")[0])
        print(f"note: {error} Without images nobody can tell what is done already.")
    else:
        show(run, task, run.name)


def _save_profile(profile: "Profile", path: Path) -> None:
    """Write a profile's settings to a YAML file, which may not hold others."""
    from deeplabv3.files import write_atomically

    text = _yaml(profile)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} exists and has other settings; name another file with --save-profile.")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"profile {path} should end in .yaml; name it so.")
    write_atomically(path, text)
    print(f"profile {path}")


def _yaml(profile: "Profile") -> str:
    """Return a profile as a YAML file holds it: its settings that are not at their defaults, without its name."""
    import yaml

    def changed(section: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for item in fields(section):
            value, factory = getattr(section, item.name), item.default_factory
            if value == (item.default if factory is MISSING else factory()):
                continue
            if is_dataclass(value):
                values[item.name] = changed(value)
            else:
                values[item.name] = [*value] if isinstance(value, tuple) else value
        return values

    values = changed(profile)
    del values["name"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _start_note(run: "Run") -> str:
    """Lines on the network that a run starts from."""
    from walkthrough.records import start

    model, classes = run.profile.model, tuple(run.profile.data.class_map().values())
    return start.describe(start.load(start.find(model.init_from)), run.config, classes, model.new_classes)


def _refuse_idle(options: argparse.Namespace, model: "ModelSection", head: str) -> None:
    """Raise a :class:`UserError` for an option or setting that has no effect with the others and the run's ``head``."""
    idle = (
        (
            "--rates (model.atrous_rates)",
            model.atrous_rates is not None and head == "cascade",
            f"head {head!r} has no ASPP",
        ),
        (
            "--no-image-pooling (model.image_pooling)",
            model.image_pooling is not None and head != "aspp",
            f"head {head!r} has none",
        ),
        ("--backbone-weights", options.backbone_weights and options.init_from, "--init-from has all weights"),
    )
    for option, given, reason in idle:
        if given:
            raise UserError(f"{option} has no effect ({reason}); leave it out.")


def crop_note(crop_size: int, output_stride: int, align_corners: bool = True) -> str:
    """Note on a crop whose corners are not those of the features; empty for others."""
    fitting = -(-(crop_size - 1) // output_stride) * output_stride + 1
    if fitting == crop_size or not align_corners:
        return ""
    return (
        f"note: a crop of {crop_size} is no multiple of output stride {output_stride} plus 1, so features and pixels "
        f"do not share their corners; --set training.crop_size={fitting} is the next that is"
    )


def _look_at_finished(run: "Run", validate_every: int) -> None:
    """Refuse a finished run's damaged checkpoint, which nothing else would read; note an option that comes too late."""
    from deeplabv3.model.checkpoint import load_checkpoint
    from deeplabv3.training.trainer import BEST

    if run.checkpoint.is_file() and run.training_record() is not None:
        load_checkpoint(run.checkpoint)
        if validate_every and not (run.folder / BEST).exists():
            print("note: the run is finished, and --validate-every has no effect; --no-resume trains it anew")


def _archive(run: "Run") -> None:
    """Give the run's folder another name and move its records there: the new network will have its own."""
    from walkthrough.records.lock import LOCK, is_held

    if is_held(run.folder / LOCK):
        raise UserError(f"another process is training run {run.name}; stop it first, or leave out --no-resume.")
    archive = run.folder.with_name(f"{run.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    for folder, target in ((run.folder, archive), (run.record_folder(), archive / "records")):
        if folder.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
    if archive.exists():
        print(f"archived the earlier run as {archive}")


def _train(run: "Run", processes: "ProcessGroup", validate_every: int) -> None:
    from tqdm import tqdm

    from walkthrough.experiments.run import evaluate_run, train_run

    with tqdm(total=run.training.iterations, desc="training", unit="step", disable=not processes.is_main) as bar:

        def report(step: int, loss: float, lr: float) -> None:
            if bar.n == 0 and step > 0:  # resumed
                start_at(bar, step)
            bar.update(step + 1 - bar.n)
            rate = bar.format_dict["rate"] or 0.0
            speed = f"{rate * run.training.batch_size:.1f}"
            bar.set_postfix({"loss": f"{loss:.3f}", "lr": f"{lr:.4f}", "images/s": speed}, refresh=False)

        train_run(run, report, processes, validate_every)
    settings = replace(run.profile.evaluation, output_stride=run.config.output_stride)
    if processes.world_size > 1 and run.evaluation_record(settings) is None:
        evaluate_run(run, settings, processes=processes)
    if processes.is_main:
        show_evaluation(run, settings)
        _note_training_images(run)


def _note_training_images(run: "Run") -> None:
    """Print a note if images of the evaluation list were trained on."""
    data = run.profile.data
    trained, evaluated = (set(run.profile.open_data(name).names) for name in (data.train_list, data.val_list))
    if both := trained & evaluated:
        print(f"note: {len(both)} of these {len(evaluated)} images were trained on, so this is no validation result")

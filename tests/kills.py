"""Kills the commands with ``kill -9`` at random moments, gives each again, and compares the ends with undisturbed ones.

Run by ``make test-all``, most of an hour: ``.venv/bin/python tests/kills.py [--only NAME …] [--kills N] [--seed N]``.
After up to five kills in a row the same command has to end with exit code 0; weights, counts, label files, tables and
outputs of notebooks have to be those of the undisturbed command, to the bit; no process and no unfinished file may be
left. Prints the counts of each command; exit code 1 if anything is lost.

A third of the moments is drawn over the whole duration of the command, start included; the others over the time after
its first change on disk, and that command is forked from this process, which has torch imported. The victim is the
process alone, it with all its children, or one child.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kill_contents import contents, differences
from kill_processes import ORPHANS_S, finish, kill, left_running, start, wait, wait_for_change
from PIL import Image

from deeplabv3.errors import UserError
from deeplabv3.files import FRESH_S
from walkthrough import paths
from walkthrough.records import prune

HOME = Path(__file__).resolve().parents[1]

PROFILE: dict[str, Any] = {
    "title": "Killed on the way",
    "data": {"kind": "synthetic", "train": 8, "val": 4},
    "model": {
        "backbones": {"resnet50": "small_resnet20", "resnet101": "small_resnet20"},
        "rates": {6: 1, 12: 2, 18: 3, 24: 4},
        "head_channels": 16,
    },
    "training": {"iterations": 12, "batch_size": 2, "crop_size": 65, "lr": 0.05, "batch_norm_momentum": 0.1},
    "evaluation": {"crop_size": 129},
    "runtime": {"eval_batch_size": 1, "parallel_runs": 2, "save_every_s": 0, "keep_checkpoints": 2},
}
TRAIN = ["train", "--profile", "killed.yaml", "--backbone", "resnet50", "--set", "runtime.num_workers=1"]

TRAINS = """
from dataclasses import replace
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.profiles import load_profile
from walkthrough.records.run import Run
profile = load_profile(profile)
run = Run.of(profile, profile.model_config("resnet50"))
train_run(run)
evaluate_run(run, replace(profile.evaluation, output_stride=run.config.output_stride))["miou"]
"""


@dataclass(frozen=True)
class Case:
    """A command that is killed: what it finds in its folder, its words there, and how often it is killed."""

    kills: int
    prepare: Callable[[Path], None]
    words: Callable[[Path], list[str]]
    victims: tuple[str, ...] = ("process", "all")
    warm: bool = True


def with_profile(folder: Path) -> None:
    (folder / "killed.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))


def with_run(folder: Path) -> None:
    with_profile(folder)
    finish(folder, TRAIN)


def with_stale_records(folder: Path) -> None:
    """A run and 300 records of runs that the code names otherwise."""
    with_run(folder)
    (record,) = (folder / "workspace/records/killed").iterdir()
    for number in range(300):
        shutil.copytree(record, record.with_name(f"aspp-{number:012x}"))


def with_images(folder: Path) -> None:
    """40 images; for the import, COCO's file with a rectangle on each of them."""
    (folder / "photos").mkdir(parents=True)
    noise, images, objects = np.random.default_rng(0), [], []
    for number in range(40):
        pixels = noise.integers(0, 256, (96, 128, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/photo_{number}.png")
        images.append({"id": number, "file_name": f"photo_{number}.png", "width": 128, "height": 96})
        left, right = number, number + 40
        corners = [left, 20, right, 20, right, 70, left, 70]
        objects.append({"id": number, "image_id": number, "category_id": 1, "segmentation": [corners], "iscrowd": 0})
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "crack"}]}
    (folder / "photos/instances.json").write_text(json.dumps(content))


def with_notebooks(folder: Path) -> None:
    """A checkout with two notebooks, of which the second trains."""
    sys.path.append(str(HOME / "tests/walkthrough/notebooks"))
    from notebook_helpers import write_notebook

    with_profile(folder)
    (folder / "home/data").mkdir(parents=True)
    (folder / "home/data/paper").symlink_to(HOME / "data/paper")
    write_notebook(folder / "home/notebooks", "00_first", "6 * 7", "import time; time.sleep(0.5)")
    write_notebook(folder / "home/notebooks", "01_second", TRAINS, "print('the end')")


def run_in(folder: Path) -> str:
    (run,) = (folder / "workspace/runs/killed").iterdir()
    return run.name


CASES = {
    "train": Case(45, with_profile, lambda _: TRAIN, ("process", "all", "child")),
    "evaluate": Case(
        30, with_run, lambda folder: ["evaluate", run_in(folder), "--profile", "killed.yaml", "--multi-scale"]
    ),
    "records": Case(30, with_run, lambda folder: ["evaluate", *[run_in(folder)] * 30, "--profile", "killed.yaml"]),
    "prune": Case(15, with_stale_records, lambda _: ["records", "prune", "--yes", "--profile", "killed.yaml"]),
    "predict": Case(35, with_images, lambda _: ["predict", "photos", "--output", "out"]),
    "import": Case(40, with_images, lambda _: ["data", "import", "coco", "photos", "set"]),
    "walkthrough": Case(
        25, with_notebooks, lambda _: ["walkthrough", "--profile", "killed.yaml"], ("process", "all", "child")
    ),
    "sweep": Case(
        25, with_profile, lambda _: ["sweep", "--profile", "killed.yaml", "--tables", "2"], ("process", "all", "child")
    ),
    "ray": Case(6, with_profile, lambda _: ["sweep", "--profile", "killed.yaml", "--tables", "2", "--ray"], warm=False),
}


# --- trials


def let_time_pass(folder: Path) -> None:
    """Make what is unfinished, whose names begin with a dot, as old as what the next command deletes."""
    for path in folder.rglob(".*"):
        os.utime(path, (time.time() - 2 * FRESH_S,) * 2)


def pruned(folder: Path) -> int:
    """What killed writers have left of records is for ``records prune``; the number of these files."""
    with paths.environment({"DEEPLABV3_WORKSPACE": str(folder / "workspace")}):
        plan = prune.plan("killed")
        prune.delete(plan)
    return len(plan.delete)


def fresh(folder: Path, template: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)


def trial(
    folder: Path, case: Case, words: list[str], whole: dict, times: tuple[float, float], draw: random.Random
) -> tuple[Counter, list[str]]:
    """Kill the command up to five times in a row, give it again; the counts, and sentences on what is lost.

    Args:
        folder: of the command, fresh
        case: who is killed
        words: of the command
        whole: what the undisturbed command leaves
        times: its seconds in all, and after its first change
        draw: moments and victims
    """
    counts: Counter[str] = Counter()
    lost: list[str] = []
    for _ in range(draw.randint(1, 5)):
        warm = draw.random() > 1 / 3
        process = start(folder, words, warm and case.warm)
        if warm:
            wait_for_change(folder, process)
        time.sleep(draw.uniform(0, times[warm]))
        counts["kills"] += 1
        counts["after the first change"] += warm and process.is_alive()
        counts["while running"] += kill(process, draw.choice(case.victims), draw)
        if running := left_running(folder, process.pid):
            lost.append(f"still running after {ORPHANS_S:.0f} s: {running}")
        let_time_pass(folder)
    process = start(folder, words, case.warm)
    if wait(process) != 0:
        process.kill()
        text = (folder.parent / "output.txt").read_text()
        return counts, [*lost, f"the same command ends with {process.exitcode} (None: it waits): {text[-2000:]}"]
    counts["resumed"] += 1
    if (folder / "workspace/records").is_dir():
        counts["left to prune"] += pruned(folder)
    try:
        found = list(differences(whole, contents(folder)))
    except (UserError, ValueError) as error:
        found = [str(error)]
    counts["differing"] += bool(found)
    return counts, lost + found


def campaign(name: str, case: Case, kills: int, seed: int, base: Path) -> Counter:
    """The counts of ``kills`` kills that hit a command; what is lost is printed at once."""
    folder, template = base / "trial", base / "template"
    for path in (folder, base / "tmp"):
        path.mkdir(parents=True)
    case.prepare(folder)
    words = case.words(folder)
    shutil.move(folder, template)
    times, whole = [], []
    for warm in (False, case.warm):
        fresh(folder, template)
        times.append(finish(folder, words, warm))
        whole.append(contents(folder))
    assert whole[0] == whole[1], [*differences(*whole)]
    drawn = sum(times[0]), times[1][1]
    print(f"{name}: {drawn[0]:.1f} s in all, {drawn[1]:.1f} s after its first change", flush=True)
    total, number = Counter[str](), 0
    while total["while running"] < kills:
        number += 1
        fresh(folder, template)
        counts, lost = trial(folder, case, words, whole[0], drawn, random.Random(f"{seed} {name} {number}"))
        total += counts
        total["lost"] += bool(lost)
        for sentence in lost:
            print(f"{name}, seed {seed}, trial {number}: {sentence}", flush=True)
    print(f"{name}: " + ", ".join(f"{total[key]} {key}" for key in COUNTS), flush=True)
    return total


COUNTS = ("kills", "while running", "after the first change", "resumed", "left to prune", "differing", "lost")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--kills", type=int, metavar="N", help="of each command, by default more than 200 in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    options = parser.parse_args()
    total: Counter[str] = Counter()
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as base:
            kills = CASES[name].kills if options.kills is None else options.kills
            total += campaign(name, CASES[name], kills, options.seed, Path(base))
    print("all: " + ", ".join(f"{total[key]} {key}" for key in COUNTS))
    return 1 if total["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())

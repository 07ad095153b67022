"""Bring records, and the checkpoints of runs, from the setting names of version 0.1.0 to those of 0.2.0.

``python data/records/migrate.py FOLDER [FOLDER …]``: folders of a profile, such as ``data/records/mobile`` or
``data/runs/mobile``. Values stay as they are; a run's and an evaluation's name follow from their settings and change
with them. What is migrated already is left alone.
"""

import json
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from deeplabv3.config import EvaluationConfig
from walkthrough.records.naming import evaluation_name, run_name

RENAMED = {
    "": {"recipe": "results_version", "start": "init_from", "pictures": "images"}
    | {"pictures_per_second": "images_per_second"},
    "model": {"layout": "stride_unit"},
    "training": {
        "batch": "batch_size",
        "crop": "crop_size",
        "accumulate": "grad_accum_steps",
        "backbone_hold": "backbone_freeze_steps",
        "backbone_ramp": "backbone_warmup_steps",
    },
    "evaluation": {"crop": "crop_size", "bf16": "precision"},
}
VALUES = {
    "stride_unit": {"paper": "last", "torchvision": "first"},
    "precision": {False: "float32", True: "bfloat16"},
}


def renamed(values: dict, part: str) -> dict:
    """``values`` with the new names and, where they have changed, the new values of settings."""
    found = {RENAMED[part].get(name, name): value for name, value in values.items()}
    return {name: VALUES[name].get(value, value) if name in VALUES else value for name, value in found.items()}


def identity(settings: dict) -> dict:
    """The settings of a run."""
    found = renamed(settings, "")
    return found | {part: renamed(found[part], part) for part in ("model", "training")}


def migrate(folder: Path) -> Path:
    """Migrate the record or the checkpoints of one run; the folder under the run's new name."""
    settings = None
    if (record := folder / "run.json").is_file():
        values = json.loads(record.read_text())
        settings = identity(values["settings"])
        record.write_text(json.dumps(values | {"run": run_name(settings), "settings": settings}, indent=2) + "\n")
    for checkpoint in folder.glob("*.safetensors"):
        with safe_open(checkpoint, framework="pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = identity(json.loads(header["settings"]))
        save_file(tensors, checkpoint, header | {"settings": json.dumps(settings)})
    if settings is None:
        raise SystemExit(f"{folder} holds neither run.json nor a checkpoint; name the folder of a profile.")
    for path in folder.glob("eval-*.json"):
        values = renamed(json.loads(path.read_text()), "")
        values |= {"run": run_name(settings), "settings": renamed(values["settings"], "evaluation")}
        name = evaluation_name(EvaluationConfig(**values["settings"]), values["fingerprint"], values["list"])
        path.with_suffix(".npz").rename(path.with_name(f"{name}.npz"))
        path.unlink()
        path.with_name(f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")
    return folder.rename(folder.with_name(run_name(settings)))


if __name__ == "__main__":
    for profile in map(Path, sys.argv[1:]):
        for run in sorted(path for path in profile.iterdir() if path.is_dir()):
            print(run.name, "→", migrate(run).name)

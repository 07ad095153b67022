"""Bring records, and the checkpoints of runs, from version 0.1.0 to 0.2.0: names of settings, fingerprints of data.

``python data/records/migrate.py [--data ROOT] FOLDER [FOLDER …]``: folders of a profile, such as
``data/records/mobile`` or ``data/runs/mobile``. ``ROOT`` is the data set that their runs were trained on: the earlier
fingerprints of its lists, of names and file sizes, become the new ones, which look into the files. Other values stay as
they are; a run's and an evaluation's name follow from their settings and change with them. What is migrated already is
left alone.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from deeplabv3.config import EvaluationConfig
from deeplabv3.data.lists import find_root, list_names
from deeplabv3.data.voc import VOCData, fingerprint
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint, save_checkpoint
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


def earlier_fingerprint(data: VOCData) -> str:
    """Hash of a list's names and file sizes."""
    sizes = [str([file.stat().st_size for file in files]) for files in data._files]
    texts = (data.list_name, *map("".join, zip(data.names, sizes, strict=True)))
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def fingerprints(root: Path) -> dict[str, str]:
    """The earlier fingerprint of each list of a data set, and the new one."""
    found = {}
    for list_name in list_names(find_root(root)):
        try:
            data = VOCData(root, list_name, {0: "background"})
        except UserError:  # such as VOC's test images, which have no labels
            continue
        found[earlier_fingerprint(data)] = fingerprint(root, list_name)
    return found


def identity(settings: dict, new_fingerprints: Mapping[str, str]) -> dict:
    """The settings of a run."""
    found = renamed(settings, "")
    found |= {part: renamed(found[part], part) for part in ("model", "training")}
    data = found["data"]
    return found | {"data": data | {"fingerprint": new_fingerprints.get(data["fingerprint"], data["fingerprint"])}}


def migrate(folder: Path, new_fingerprints: Mapping[str, str]) -> Path:
    """Migrate the record or the checkpoints of one run; the folder under the run's new name."""
    settings = None
    if (record := folder / "run.json").is_file():
        values = json.loads(record.read_text())
        settings = identity(values["settings"], new_fingerprints)
        record.write_text(json.dumps(values | {"run": run_name(settings), "settings": settings}, indent=2) + "\n")
    for path in folder.glob("*.safetensors"):
        checkpoint = load_checkpoint(path)
        settings = identity(checkpoint.settings, new_fingerprints)
        if settings != checkpoint.settings:
            checkpoint.settings = settings
            save_checkpoint(path, checkpoint)
    if settings is None:
        raise SystemExit(f"{folder} holds neither run.json nor a checkpoint; name the folder of a profile.")
    for path in folder.glob("eval-*.json"):
        values = renamed(json.loads(path.read_text()), "")
        values |= {"run": run_name(settings), "settings": renamed(values["settings"], "evaluation")}
        values["fingerprint"] = new_fingerprints.get(values["fingerprint"], values["fingerprint"])
        name = evaluation_name(EvaluationConfig(**values["settings"]), values["fingerprint"], values["list"])
        path.with_suffix(".npz").rename(path.with_name(f"{name}.npz"))
        path.unlink()
        path.with_name(f"{name}.json").write_text(json.dumps(values, indent=2) + "\n")
    _, dot, archived = folder.name.partition(".")  # the time, of a run that another one took the place of
    return folder.rename(folder.with_name(run_name(settings) + dot + archived))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--data", type=Path, metavar="ROOT")
    options = parser.parse_args(arguments)
    known = fingerprints(options.data) if options.data else {}
    for old, new in known.items():
        print("data", old, "→", new)
    for profile in options.folders:
        for run in sorted(path for path in profile.iterdir() if path.is_dir()):
            print(run.name, "→", migrate(run, known).name)


if __name__ == "__main__":
    main()

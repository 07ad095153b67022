"""``--tile`` of evaluate and predict: records of their own, a note on image-level features, and a tile's memory."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import CLASSES
from PIL import Image
from test_predict_command import make_photo, save

from deeplabv3.config import EvaluationConfig
from deeplabv3.evaluation import predict as predict_module
from walkthrough.cli import main
from walkthrough.records import naming

NOTE = "image-level features are those of a tile"


def test_tiles_are_in_a_name_only_when_used():
    """Names of earlier records stay."""
    assert naming.evaluation_name(EvaluationConfig(), "images", "val") == "eval-7deda96564ae"
    assert "tile_size" not in naming.strategy(EvaluationConfig(8, (0.5, 1.0), True))
    assert naming.strategy(EvaluationConfig(tile_size=513)) == naming.strategy(EvaluationConfig()) | {"tile_size": 513}


def test_evaluation_by_tiles_has_its_own_record(profile_file, voc_root, workspace, capsys):
    for name in ("image_6", "image_7", "image_8"):
        with Image.open(voc_root / "JPEGImages" / f"{name}.jpg") as image:
            image.resize((300, 280)).save(voc_root / "JPEGImages" / f"{name}.jpg")
        with Image.open(voc_root / "SegmentationClass" / f"{name}.png") as label:
            label.resize((300, 280), Image.Resampling.NEAREST).save(voc_root / "SegmentationClass" / f"{name}.png")
    command = ["--profile", str(profile_file)]
    assert main(["train", *command, "--multi-grid", "1", "1", "1"]) == 0
    (run,) = (workspace / "runs").glob("*/*")
    assert NOTE not in capsys.readouterr().out
    for tile in ("257", "0"):
        assert main(["evaluate", *command, str(run), "--output-stride", "8", "--tile", tile]) == 0
        assert (NOTE in capsys.readouterr().out) == (tile == "257")
    records = [json.loads(path.read_text()) for path in (workspace / "records").rglob("eval-*.json")]
    by_tile = {(one["settings"]["output_stride"], one["settings"]["tile_size"]): one for one in records}
    assert set(by_tile) == {(16, 0), (8, 0), (8, 257)}
    assert main(["evaluate", *command, str(run), "--tile", "65"]) == 1
    assert "--tile is 65; it takes" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["aspp", "cascade"])
def test_prediction_by_tiles_has_images_own_size(tmp_path, make_model, capsys, head):
    """Without ``--tile`` the network sees it reduced."""
    grid = {"multi_grid": (1, 1, 1)} if head == "cascade" else {}
    weights = str(save(tmp_path / "net.safetensors", make_model(head=head, **grid), CLASSES))
    photo = make_photo(tmp_path / "field.png", 700, 620)
    found = []
    for name, options in (("tiles", ["--tile", "257"]), ("whole", ["--max-size", "700"]), ("reduced", [])):
        out = tmp_path / name
        assert main(["predict", str(photo), "--weights", weights, "--output", str(out), *options]) == 0
        assert (NOTE in capsys.readouterr().out) == (name == "tiles" and head == "aspp")
        found.append(np.asarray(Image.open(out / "field_classes.png")))
    tiles, whole, reduced = found
    assert tiles.shape == (700, 620) and len(np.unique(tiles)) > 1
    if head == "cascade":
        assert (tiles == whole).mean() > (reduced == whole).mean()


@pytest.mark.parametrize(("stride", "least"), [("8", 129), ("16", 257)])
def test_small_tile_names_option_and_least_size(tmp_path, make_model, capsys, stride, least):
    weights = str(save(tmp_path / "net.safetensors", make_model(), CLASSES))
    photo = str(make_photo(tmp_path / "a.png"))
    assert main(["predict", photo, "--weights", weights, "--output-stride", stride, "--tile", "65"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("deeplabv3: --tile is 65; it takes") and f"at least {least}, or 0" in told


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")],
    ids=["numpy", "torch"],
)
def test_image_beyond_memory_names_tiles(tmp_path, make_model, monkeypatch, capsys, error):
    """The others go on."""
    weights = str(save(tmp_path / "net.safetensors", make_model(), CLASSES))
    make_photo(tmp_path / "trip" / "a.png", 70, 60)
    make_photo(tmp_path / "trip" / "b.png", 60, 70)
    predicted = predict_module.predict_photo

    def predict_photo(model, photo, *settings):
        if photo.shape[0] == 70:
            raise error
        return predicted(model, photo, *settings)

    monkeypatch.setattr(predict_module, "predict_photo", predict_photo)
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "trip"), "--weights", weights, "--output", str(out)]) == 1
    told = capsys.readouterr().err
    assert re.search(r"deeplabv3: image \S+a\.png takes more memory than there is; give --tile 1025\.", told)
    assert (out / "b_overlay.jpg").is_file()


def test_other_errors_of_prediction_are_defects(tmp_path, make_model, monkeypatch):
    weights = str(save(tmp_path / "net.safetensors", make_model(), CLASSES))
    monkeypatch.setattr(predict_module, "predict_photo", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["predict", str(make_photo(tmp_path / "a.png")), "--weights", weights, "--output", str(tmp_path / "out")])

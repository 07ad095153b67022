"""The benchmark of evaluation: same network, images and counts as torchvision's loop."""

import json

import numpy as np
import pytest
import torch
from conftest import CLASSES, write_voc

from deeplabv3.config import SYNTHETIC_CLASSES, VOID, EvaluationConfig, ModelConfig
from deeplabv3.data.transforms import normalize, pad, padded_size
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import evaluate
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.bench import evaluate as bench
from walkthrough.bench.evaluate import EvaluationBench, _AsTorchvision, _Samples, enlarged, reference_loop, render
from walkthrough.cli import main


@pytest.fixture
def checkpoint(make_model, tmp_path):
    """An untrained network of three classes, as a run would leave it."""
    model = make_model()
    settings = {"model": vars(model.config), "data": {"classes": {str(value): name for value, name in CLASSES.items()}}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(1, 0.0, settings, model.state_dict(), {}))
    return path


@pytest.mark.parametrize("padding", ["tight", "crop"])
def test_both_loops_get_equal_images(voc_root, padding):
    own = ModelConfig(mean=(0.2, 0.6, 0.5), std=(0.3, 0.2, 0.25))
    data, settings = VOCData(voc_root, "trainval", CLASSES), EvaluationConfig(8, crop_size=65, padding=padding)
    for index, (normalized, label) in enumerate(_Samples(data, settings, own)[index] for index in range(len(data))):
        image, truth = data[index]
        size = padded_size(*truth.shape, settings)
        torch.testing.assert_close(
            normalized[None],
            normalize(torch.from_numpy(pad(image, size, color=own.mean_pixel)[None]), own.mean, own.std),
        )
        assert np.array_equal(label[: truth.shape[0], : truth.shape[1]], truth)
        assert label.shape == size and (label != VOID).sum() == (truth != VOID).sum()


@pytest.mark.parametrize("workers", [0, 1])
def test_both_loops_count_equally(make_model, voc_root, workers):
    data, settings = VOCData(voc_root, "trainval", CLASSES), EvaluationConfig(padding="tight")
    model: DeepLabV3 = make_model().eval()
    loader = torch.utils.data.DataLoader(_Samples(data, settings, ModelConfig()), num_workers=workers)
    reference = reference_loop(_AsTorchvision(model), loader, "cpu")
    ours = evaluate(model, data, settings, batch_size=4).sum(0)
    assert reference.sum() == ours.sum() > 0
    assert abs(reference - ours).sum() / 2 < 1e-3 * ours.sum()  # ties


def test_synthetic_images_are_enlarged_with_labels(tmp_path):
    data = VOCData(enlarged(tmp_path, 5), "val", dict(enumerate(SYNTHETIC_CLASSES)))
    assert len(data) == 5
    sizes = [data[index][1].shape[::-1] for index in range(5)]
    assert sizes == bench.voc_sizes(5)
    assert len({int(value) for index in range(5) for value in np.unique(data[index][1])}) > 3


@pytest.mark.parametrize(("output_stride", "real"), [(8, 59), (16, 43)])
def test_sizes_are_as_various_as_real_ones(output_stride, real):
    """445 images of VOC's val, padded tightly, have so many sizes; full batches are then rare, as with real images."""
    config = EvaluationConfig(output_stride, padding="tight")
    found = {padded_size(height, width, config) for width, height in bench.voc_sizes(445)}
    assert 0.75 * real < len(found) < 1.25 * real
    assert bench.voc_sizes(445)[:100] != bench.voc_sizes(445)[100:200]


def test_command_measures_a_checkpoint(checkpoint, tmp_path, capsys):
    root, file = write_voc(tmp_path / "images", train=1, val=4), tmp_path / "bench.json"
    files = ["--weights", str(checkpoint), "--data", str(root), "--json", str(file)]
    settings = ["--images", "3", "--batch-size", "2", "--rounds", "3", "--output-stride", "16", "--bf16"]
    assert main(["bench", "evaluate", *files, *settings]) == 0
    printed, result = capsys.readouterr().out, json.loads(file.read_text())
    assert render(result) in printed
    assert (result["images"], result["settings"]["weights"]) == (3, "checkpoint.safetensors")
    assert str(tmp_path) not in json.dumps(result)
    data = VOCData(root, "val", CLASSES)
    assert result["pixels"] == sum((data[index][1] != VOID).sum() for index in range(3))
    reference, plain, ours, rough = result["rows"]
    assert reference["name"] == "torchvision's loop" and reference["speed"] == 1
    assert reference["differing_pixels"] is None
    for row in (plain, ours, rough):
        speed = np.median(reference["seconds"]) / np.median(row["seconds"])
        assert row["speed"] == pytest.approx(speed)
        assert row["images_per_second"] == pytest.approx(3 / np.median(row["seconds"]))
        assert len(row["seconds"]) == 3
    assert max(plain["differing_pixels"], ours["differing_pixels"]) < 1e-3 * result["pixels"]
    assert ours["differing_pixels"] <= rough["differing_pixels"] < 0.2 * result["pixels"]


def test_checkpoint_without_classes_uses_output_numbers(make_model, tmp_path, capsys):
    """Its label values are then the numbers of its outputs; others are void."""
    model = make_model()
    save_checkpoint(
        tmp_path / "c.safetensors", Checkpoint(1, 1.0, {"model": vars(model.config)}, model.state_dict(), {})
    )
    root = write_voc(tmp_path / "images", train=1, val=3)
    command = ["bench", "evaluate", "--weights", str(tmp_path / "c.safetensors"), "--data", str(root)]
    assert main([*command, "--rounds", "3", "--images", "2", "--json", str(tmp_path / "b.json")]) == 0
    data = VOCData(root, "val", CLASSES)
    counted = sum(np.isin(data[index][1], range(3)).sum() for index in range(2))
    assert 0 < json.loads((tmp_path / "b.json").read_text())["pixels"] <= counted


def test_differing_pixel_is_counted(make_model, data):
    """One pixel of ours changed, one more where the truth is void: one is counted."""
    model, settings = make_model().eval(), EvaluationConfig(padding="tight")
    reference = _AsTorchvision(model)
    loader = torch.utils.data.DataLoader(_Samples(data, settings, ModelConfig()))
    predictions = [
        reference(image[None])["out"].argmax(1)[0].numpy()[: data[index][1].shape[0], : data[index][1].shape[1]]
        for index, (image, _) in enumerate(_Samples(data, settings, ModelConfig())[index] for index in range(len(data)))
    ]
    assert bench._count_differing(reference, loader, predictions) == 0
    for place in ((data[3][1] != VOID).nonzero(), (data[3][1] == VOID).nonzero()):
        y, x = place[0][0], place[1][0]
        predictions[3][y, x] = (predictions[3][y, x] + 1) % 3
    assert bench._count_differing(reference, loader, predictions) == 1


def test_command_measures_resnet50_on_synthetic_images(monkeypatch, capsys):
    """The command needs no file; here the enlarged images are tiny."""
    monkeypatch.setattr(bench, "voc_sizes", lambda count: [(40, 33), (33, 40)])
    assert main(["bench", "evaluate", "--images", "2", "--rounds", "3"]) == 0
    printed = capsys.readouterr().out
    assert "torchvision's ResNet-50, random weights, output stride 8" in printed
    assert "synthetic, enlarged" in printed
    last = printed.strip().splitlines()[-1].split()
    assert last[0] == "ours" and int(last[-1]) < 30


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": 0}, "images"),
        ({"batch_size": 0}, "batch_size"),
        ({"rounds": 2}, "rounds"),
        ({"threads": -1}, "threads"),
        ({"workers": -1}, "workers"),
        ({"device": "tpu"}, "device"),
        ({"padding": "none"}, "padding"),
        ({"output_stride": 16}, "--weights"),
        ({"weights": "checkpoint.safetensors"}, "--data"),
    ],
)
def test_wrong_setting_is_named(changes, word):
    with pytest.raises(UserError, match=word):
        EvaluationBench(**changes)


def test_missing_file_is_named(tmp_path, capsys):
    assert main(["bench", "evaluate", "--data", "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["bench", "evaluate", "--weights", "no.safetensors", "--data", "nowhere"]) == 1
    assert "no.safetensors do not exist" in capsys.readouterr().err
    assert main(["bench", "evaluate", "--json", str(tmp_path / "none" / "bench.json")]) == 1
    assert "make it first" in capsys.readouterr().err


def test_both_loops_have_equal_settings(monkeypatch):
    """Of cuDNN and TF32, which a GPU has; torchvision's loop gets what the strategy of ours says."""
    seen = []

    def loop(network, loader, device):
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, device))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "reference_loop", loop)
    for device in ("cuda", "cpu"):
        for padding in ("crop", "tight"):
            EvaluationBench(padding=padding, device=device)._reference(None, None)
    assert seen == [(True, True, "cuda"), (False, True, "cuda"), (True, False, "cpu"), (False, False, "cpu")]
    assert EvaluationBench(device="cuda").strategy().precision == "tf32"


def test_failed_compilation_costs_one_row():
    def fail():
        raise RuntimeError("no C compiler")

    with pytest.warns(UserWarning, match="no C compiler"):
        assert not bench._succeeds(fail)
    assert bench._succeeds(lambda: None)


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["tight", "crop"])
def test_command_measures_a_gpu(checkpoint, tmp_path, padding):
    root, file = write_voc(tmp_path / "images", train=1, val=5), tmp_path / "bench.json"
    files = ["--weights", str(checkpoint), "--data", str(root), "--json", str(file), "--padding", padding]
    settings = ["--images", "5", "--batch-size", "2", "--rounds", "3", "--output-stride", "16", "--bf16"]
    assert main(["bench", "evaluate", *files, *settings, "--device", "cuda"]) == 0
    result = json.loads(file.read_text())
    names = [row["name"] for row in result["rows"]]
    assert names[1:4] == ["ours, unmodified network", "ours", "ours in bf16"]
    assert names[4:] == (["ours in bf16, compiled"] if padding == "crop" else [])
    assert result["rows"][2]["differing_pixels"] < 1e-3 * result["pixels"]

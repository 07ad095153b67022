"""What notebooks 5 and 6 write out is the library's, to the bit; their photographs and their file of frequencies."""

import ast

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CLASSES, write_label
from notebook_helpers import DATA, TRAINING, cells, definitions
from PIL import Image

from deeplabv3 import DeepLabV3, ModelConfig, load_pretrained
from deeplabv3.config import VOC_CLASSES, VOID, TrainingConfig
from deeplabv3.data import voc
from deeplabv3.errors import UserError
from deeplabv3.model import atrous, cost
from deeplabv3.training import step as library
from walkthrough import paths
from walkthrough.experiments.shown import PRETRAINED
from walkthrough.notebooks.sample_images import open_photographs
from walkthrough.profiles import load_profile

FREQUENCIES = paths.home() / "data" / "paper" / "class_frequencies_animals.csv"


@pytest.fixture(scope="module")
def data_page() -> dict:
    return definitions(DATA)


@pytest.fixture(scope="module")
def training_page() -> dict:
    return definitions(TRAINING)


# --- notebook 5


def test_palette_equals_library(data_page):
    assert np.array_equal(data_page["palette"](), voc.palette())


def test_dataset_equals_library(data_page, voc_root):
    page, own = data_page["Dataset"](voc_root, "train", CLASSES), voc.VOCData(voc_root, "train", CLASSES)
    assert len(page) == len(own) == 6
    for i in range(6):
        assert all(np.array_equal(*pair) for pair in zip(page[i], own[i], strict=True))


def test_dataset_prefers_vocs_labels(data_page, voc_root):
    aug, own = voc_root / "SegmentationClassAug", voc_root / "SegmentationClass"
    aug.mkdir()
    for name in ("image_0", "image_1"):
        with Image.open(own / f"{name}.png") as label:
            write_label(aug / f"{name}.png", np.full(label.size[::-1], 7, np.uint8))
    (own / "image_1.png").unlink()
    page = data_page["Dataset"](voc_root, "train", {0: "background", 7: "disc"})
    assert set(np.unique(page[0][1])) == {0, 1, VOID}  # the square has no class here
    assert (page[1][1] == 1).all()


def test_frequencies_count_pixels_images_and_copies(data_page):
    labels = [np.array([[0, 0, 1]]), np.array([[0, 2, 2]]), np.array([[VOID, 2, 0]])]
    counts = data_page["class_counts"](labels, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [1, 0, 2, 0], [1, 0, 1, 0]]
    table = data_page["frequencies"](counts, ("background", "cat", "cow", "dog"), ["cat", "dog"])
    assert table.to_dict("index") == {
        "background": {"pixels": 4, "images": 3, "beside_hard": 2},
        "cat": {"pixels": 1, "images": 1, "beside_hard": 1},
        "cow": {"pixels": 3, "images": 2, "beside_hard": 0},
        "all": {"pixels": 8, "images": 3, "beside_hard": 3},
    }


def test_file_of_frequencies_is_consistent():
    table = pd.read_csv(FREQUENCIES, comment="#", index_col=0)
    classes = table.drop(index="all")
    assert list(classes.index) == list(load_pretrained()[1].values())
    assert classes["pixels"].sum() == table.loc["all", "pixels"]
    assert classes["beside_hard"].sum() == table.loc["all", "beside_hard"]
    assert classes["images"].max() <= table.loc["all", "images"]
    assert classes.loc["person", "pixels"] == classes.loc["person", "beside_hard"]
    assert (classes["beside_hard"] <= classes["pixels"]).all()
    assert "animals" in FREQUENCIES.read_text().splitlines()[0]


def test_photographs_of_a_fresh_clone_have_labels(monkeypatch, tmp_path):
    monkeypatch.delenv("DEEPLABV3_DATA", raising=False)
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(tmp_path / "workspace"))
    data, source = open_photographs(load_profile("smoke"), tmp_path / "samples")
    assert data.names == ["chelsea", "grace_hopper"] and "the network in the library drew" in source
    cat, person = (set(np.unique(data[i][1])) for i in range(2))
    names = data.class_names
    assert cat == {0, names.index("cat"), VOID} and {0, names.index("person"), VOID} <= person


def test_photographs_are_vocs_where_at_hand(monkeypatch, tmp_path, voc_root):
    monkeypatch.setenv("DEEPLABV3_DATA", str(voc_root))
    data, _ = open_photographs(load_profile("smoke"), tmp_path / "samples")
    assert (data.root, data.list_name, data.class_names) == (voc_root, "train", VOC_CLASSES)
    (voc_root / "ImageSets/Segmentation/trainaug.txt").write_text("image_4\n")
    assert open_photographs(load_profile("smoke"), tmp_path / "samples")[0].names == ["image_4"]
    assert not (tmp_path / "samples").exists()
    monkeypatch.setenv("DEEPLABV3_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_photographs(load_profile("smoke"), tmp_path / "samples")


def test_photographs_of_own_profile_are_its_own(profile, tmp_path):
    data, source = open_photographs(profile, tmp_path / "samples")
    assert data.classes == CLASSES and source == f"6 images of profile {profile.name}, list train."


# --- notebook 6


def test_loss_and_gradient_equal_library(training_page):
    torch.manual_seed(0)
    labels = torch.randint(5, (2, 33, 33))
    labels[:, :7] = VOID
    logits = torch.randn(2, 5, 33, 33)
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = training_page["cross_entropy"](mine, labels)
    summed = torch.nn.functional.cross_entropy(theirs, labels, ignore_index=VOID, reduction="none").sum()
    expected = summed / (labels != VOID).sum()
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    assert torch.equal(mine.grad, theirs.grad)


def test_poly_equals_library(training_page):
    assert [training_page["poly"](step, 30) for step in range(31)] == [library.poly(step, 30) for step in range(31)]


def test_sgd_equals_torchs_with_two_groups(training_page):
    torch.manual_seed(0)
    start, gradients = [torch.randn(40), torch.randn(7, 3)], [[torch.randn(40), torch.randn(7, 3)] for _ in range(4)]
    mine, theirs = ([w.clone().requires_grad_() for w in start] for _ in range(2))
    page = training_page["SGD"]([[mine[0]], [mine[1]]], 0.9, 1e-2)
    torchs = torch.optim.SGD([{"params": [w]} for w in theirs], lr=1, momentum=0.9, weight_decay=1e-2)
    for number, given in enumerate(gradients):
        rates = (0.1 / (number + 1), 0.5)
        for w, other, gradient, group, rate in zip(mine, theirs, given, torchs.param_groups, rates, strict=True):
            w.grad, other.grad, group["lr"] = gradient.clone(), gradient.clone(), rate
        page.step(rates)
        torchs.step()
    assert all(torch.equal(*pair) for pair in zip(mine, theirs, strict=True))


def test_steps_equal_library_to_the_bit(training_page):
    network = ModelConfig(num_classes=5, backbone="small_resnet20", head_channels=8, atrous_rates=(1, 2, 3))
    settings = TrainingConfig(iterations=3, batch_size=2, crop_size=33, lr=0.1, backbone_lr_factor=0.3)
    found = []
    for by_page in (True, False):
        torch.manual_seed(0)
        model, losses = DeepLabV3(network).train(), []
        parts = (model.backbone.parameters(), model.head.parameters())
        page = training_page["SGD"](parts, settings.momentum, settings.weight_decay)
        optimizer = page if by_page else library.make_optimizer(model, settings)
        with_loss = library.ModelWithLoss(model, settings)
        for step in range(3):
            images = torch.randint(256, (2, 33, 33, 3), dtype=torch.uint8)
            labels = torch.randint(5, (2, 33, 33), dtype=torch.uint8)
            labels[:, :, 20:] = VOID
            if by_page:
                losses.append(training_page["training_step"](model, optimizer, settings, step, images, labels))
            else:
                losses.append(library.training_step(with_loss, optimizer, settings, 0, step, images, labels))
        found.append([*losses, *model.state_dict().values()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_valid_weights_equal_counted_ones(training_page):
    for size, rate in ((33, 18), (21, 12), (9, 20)):
        counts = atrous.count_valid_weights(size, rate)
        mean = sum(valid * positions for valid, positions in counts.items()) / size**2
        assert training_page["valid"](size, rate) == pytest.approx(mean)


def test_memory_grows_with_crop_and_resolution(training_page):
    config = ModelConfig(num_classes=5, backbone="small_resnet20", head_channels=8)
    features, fixed = training_page["gigabytes"](config, 65)
    assert fixed == pytest.approx(12e-9 * cost.parameters(config))
    assert training_page["gigabytes"](config, 129)[0] > 3 * features
    finer = ModelConfig(num_classes=5, backbone="small_resnet20", head_channels=8, output_stride=8)
    assert training_page["gigabytes"](finer, 65)[0] > features > 4e-9 * 65 * 65 * 5  # the logits alone


def test_main_curves_are_the_librarys_runs():
    """Their records ship with logs of as many steps as they have, and the last has the network's settings."""
    (source,) = [cell.source for cell in cells(TRAINING) if "RUNS = " in cell.source]
    runs = ast.literal_eval(ast.parse(source).body[0].value)
    records = [pd.read_json(folder / "run.json", typ="series") for folder in map(log_folder, runs)]
    for folder, record in zip(map(log_folder, runs), records, strict=True):
        assert len(pd.read_csv(folder / "log.csv")) == record["settings"]["training"]["iterations"]
    assert [record["started_from"] for record in records[1:]] == list(runs[:-1])
    assert runs[-1] == PRETRAINED
    config = load_pretrained()[0].config
    assert all(getattr(config, name) == as_tuple(value) for name, value in records[-1]["settings"]["model"].items())


def log_folder(run: str):
    return paths.home() / "data" / "records" / "mobile" / run


def as_tuple(value):
    return tuple(value) if isinstance(value, list) else value

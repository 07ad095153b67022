"""Profiles: the ones that come with the project work, and every mistake in one is a sentence that names it."""

import contextlib

import numpy as np
import pytest
import torch
import yaml

from deeplabv3.config import SCALES
from deeplabv3.data import voc
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.profiles import Profile, load_profile, profile_names, with_data
from walkthrough.records.run import Run


def test_the_profiles_of_the_design_are_there():
    assert {"smoke", "offline", "mobile", "voc"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_makes_every_network_of_the_paper(name):
    profile = load_profile(name)
    assert profile.name == name
    variants = [
        {"head": "aspp", "multi_grid": (1, 2, 4), "atrous_rates": (6, 12, 18, 24)},
        {"head": "cascade", "last_block": 7, "multi_grid": (1, 2, 1), "output_stride": 256},
        {"head": "v2", "multi_grid": (1, 1, 1), "output_stride": 8},
    ]
    for backbone in ("resnet50", "resnet101"):
        for variant in variants:
            with torch.device("meta"):
                model = DeepLabV3(profile.model_config(backbone, **variant)).eval()
                size = profile.training.crop_size
                assert model(torch.empty(1, 3, size, size)).shape == (1, len(profile.data.class_map()), size, size)


def test_voc_is_the_papers_protocol():
    """Section 4.1, stage 1."""
    profile = load_profile("voc")
    training = profile.training
    assert (training.iterations, training.batch_size, training.crop_size, training.lr) == (30_000, 16, 513, 0.007)
    assert (training.power, training.momentum, training.weight_decay) == (0.9, 0.9, 1e-4)
    assert training.batch_norm_momentum == pytest.approx(1 - 0.9997)
    assert (training.scales, training.flip, training.upsample_logits) == (SCALES, True, True)
    assert not training.freeze_batch_norm
    assert (training.backbone_lr_factor, training.backbone_clip_norm) == (1, None)
    assert (profile.data.train_list, profile.data.val_list) == ("trainaug", "val")
    assert len(profile.data.class_map()) == 21
    assert profile.evaluation.crop_size == 513
    config = profile.model_config("resnet101")
    assert (config.backbone, config.output_stride, config.multi_grid) == ("resnet101", 16, (1, 2, 4))
    assert (config.atrous_rates, config.image_pooling, config.head_channels) == ((6, 12, 18), True, 256)


def test_none_means_the_environment_and_then_offline(monkeypatch):
    assert load_profile().name == "offline"
    monkeypatch.setenv("DEEPLABV3_PROFILE", "voc")
    assert load_profile().name == "voc"
    assert load_profile("mobile").name == "mobile"


def test_a_file_of_ones_own(profile_file):
    profile = load_profile(str(profile_file))
    assert isinstance(profile, Profile)
    assert profile.name == "tiny-tests"
    assert profile.data.class_map() == {0: "background", 3: "square", 7: "disc"}
    assert profile.model_config("resnet50", atrous_rates=(6, 24)).atrous_rates == (1, 4)
    assert load_profile(profile) is profile


def test_overrides_replace_single_settings(profile_file):
    overrides = {"training.lr": 1, "training.scales": [1], "seed": 4, "training.backbone_clip_norm": None}
    profile = load_profile(str(profile_file), overrides)
    assert profile.training.lr == 1.0
    assert profile.training.scales == (1,)
    assert profile.seed == 4
    assert profile.training.crop_size == 33
    assert load_profile(str(profile_file)).seed == 0


def test_overrides_of_a_loaded_profile_are_not_lost(profile):
    with contextlib.suppress(UserError):  # refusing them is fine too
        assert load_profile(profile, {"seed": 4}).seed == 4


MISTAKES = [
    ({"trainng.lr": 1.0}, r"'trainng' is unknown; did you mean 'training'\?"),
    ({"training.learning_rate": 1.0}, "training: setting 'learning_rate' is unknown"),
    ({"training.momentun": 1.0}, r"did you mean 'momentum'\?"),
    ({"seed.value": 1}, "'seed.*has no parts|'seed'"),
    ({"training.iterations": "many"}, "'iterations' is 'many'; it takes a whole number"),
    ({"training.iterations": 1.5}, "'iterations' is 1.5; it takes a whole number"),
    ({"training.iterations": True}, "'iterations' is True; it takes a whole number"),
    ({"training.iterations": 0}, "'iterations' is 0"),
    ({"training.lr": "high"}, "'lr' is 'high'; it takes a number"),
    ({"training.lr": None}, "'lr' is None; it takes a number"),
    ({"training.flip": 1}, "'flip' is 1; it takes true or false"),
    ({"training.scales": 1.0}, "'scales' is 1.0; it takes a list"),
    ({"training.scales": []}, "scales"),
    ({"training.scales": ["a"]}, "scales"),
    ({"training.backbone_clip_norm": "x"}, "'backbone_clip_norm' is 'x'; it takes a number or null"),
    ({"training.backbone_clip_norm": True}, "'backbone_clip_norm' is True; it takes a number or null"),
    ({"title": 5}, "'title' is 5; it takes text"),
    ({"training": 5}, "'training' should have settings of its own"),
    ({"training": None}, "'training' should have settings of its own"),
    ({"rates": [6, 12]}, "'rates' is .* it takes a list of 'key: value' lines"),
    ({"rates": {6: 1}}, r"rates\.12"),
    ({"rates": {6: "a", 12: 1, 18: 1, 24: 1}}, "rates"),
    ({"backbones": {"resnet50": "vgg16", "resnet101": "resnet50"}}, "vgg16"),
    ({"backbones": {"resnet50": "resnet50"}}, r"backbones\.resnet101"),
    ({"data.kind": "cityscapes"}, "'cityscapes'"),
    ({"data.classes": {"a": "b"}}, "classes"),
    ({"data.classes": {0: "background", 300: "far"}}, "classes"),
    ({"data.classes": {0: "background", 255: "void"}}, "classes"),
    ({"evaluation.padding": "mirror"}, "padding 'mirror'"),
    ({"stride_unit": "caffe"}, "'caffe'"),
    ({"dropout": 2.0}, "dropout"),
    ({"head_channels": 0}, "head_channels"),
    ({"seed": -1}, "seed"),
    ({"workers": -1}, "workers"),
    ({"side_by_side": -1}, "side_by_side"),
    ({"evaluation_batch": 0}, "evaluation_batch"),
]


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=[str(o)[1:-1] for o, _ in MISTAKES])
def test_mistakes_are_named(profile_file, overrides, sentence):
    """At the latest when the network is built, before any work is done."""
    with pytest.raises(UserError, match=sentence) as caught, torch.device("meta"):
        DeepLabV3(load_profile(str(profile_file), overrides).model_config())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["1e-3", "5e-2", 0.001, 1])
def test_numbers_may_be_written_as_people_write_them(profile_file, value):
    """YAML 1.1 takes 1e-3 for a text."""
    values = yaml.safe_load(profile_file.read_text())
    values["training"]["lr"] = "REPLACED"
    profile_file.write_text(yaml.safe_dump(values).replace("REPLACED", str(value)))
    assert load_profile(str(profile_file)).training.lr == float(value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("title: [1, 2", "not valid YAML"),
        ("- a\n- b\n", "setting: value"),
        ("", "setting: value"),
        ("title: t\n", "'data' is missing"),
        ("title: \xe4\n", "."),
    ],
)
def test_files_that_are_no_profiles_are_named(tmp_path, content, sentence):
    path = tmp_path / "own.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=sentence) as caught:
        load_profile(str(path))
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["offlin", "nowhere.yaml", "voc/../voc2"])
def test_unknown_profiles_are_named_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"is unknown; choose one of .*offline.*voc"):
        load_profile(name)


def test_data_and_weights_of_ones_own(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = with_data(profile, "images", "weights.pth")
    assert changed.data_root() == tmp_path / "images"
    assert changed.backbone_weights == str(tmp_path / "weights.pth")
    assert with_data(profile, None, "imagenet").backbone_weights == "imagenet"
    assert with_data(profile) == profile
    with pytest.raises(UserError, match="'offline' draws its own data"):
        with_data(load_profile("offline"), "images")


def test_embedded_data_is_drawn_on_first_use(workspace):
    profile = load_profile("smoke")
    assert not workspace.exists()
    data = profile.open_data()
    assert len(data) == profile.data.val
    assert len(profile.open_data("train")) == profile.data.train
    assert data.root.is_relative_to(workspace)


@pytest.mark.parametrize(("cache", "kept"), [("always", True), ("never", False), ("auto", True)])
def test_training_keeps_its_images_in_memory(voc_root, profile_file, monkeypatch, cache, kept):
    monkeypatch.setattr(voc, "allowance", lambda: 10**9)
    profile = load_profile(str(profile_file), {"cache": cache})
    assert profile.open_data("train").cached is kept
    assert not profile.open_data().cached  # evaluation looks at each once


def test_other_classes_may_be_void_and_the_run_keeps_its_name(voc_root, profile_file):
    """Where labels with other classes are an error there is no run, so both ways never have different results."""
    known = {"data.classes": {0: "background", 3: "square"}}
    strict = load_profile(str(profile_file), known)
    lenient = load_profile(str(profile_file), known | {"data.others": "void"})
    with pytest.raises(UserError, match="holds the value 7"):
        strict.open_data()[0]
    assert set(np.unique(lenient.open_data()[0][1])) == {0, 1, 255}
    assert Run.of(strict, strict.model_config()).name == Run.of(lenient, lenient.model_config()).name
    with pytest.raises(UserError, match="setting 'others' is 'ignore'; it takes 'error' or 'void'"):
        load_profile(str(profile_file), {"data.others": "ignore"})


def test_an_unknown_way_to_cache_is_named():
    with pytest.raises(UserError, match="setting 'cache' is 'yes'"):
        load_profile("voc", {"cache": "yes"})


def test_seeds_come_from_the_profile_the_environment_or_the_call(monkeypatch):
    assert list(load_profile("offline").all_seeds()) == [0]
    monkeypatch.setenv("DEEPLABV3_SEEDS", "3")
    assert list(load_profile("offline").all_seeds()) == [0, 1, 2]
    assert list(load_profile("offline", {"seeds": 2, "seed": 5}).all_seeds()) == [5, 6]
    monkeypatch.setenv("DEEPLABV3_SEEDS", "many")
    with pytest.raises(UserError, match="setting 'seeds' is 'many'; it takes a whole number"):
        load_profile("offline")
    monkeypatch.setenv("DEEPLABV3_SEEDS", "0")
    with pytest.raises(UserError, match="'seeds' is 0; it takes a whole number of at least 1"):
        load_profile("offline")

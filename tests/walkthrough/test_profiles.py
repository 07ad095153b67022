"""Profiles: those of the project work, and every mistake is a sentence that names the profile and the setting."""

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from deeplabv3.config import SCALES
from deeplabv3.data import voc
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.datasets.importing.cityscapes import CLASSES
from walkthrough.profiles import FOLDER, Profile, load_profile, profile_names, with_data
from walkthrough.records.catalogue import recorded_seeds
from walkthrough.records.naming import SHIPPED, reading
from walkthrough.records.run import Run


def test_expected_profiles_exist():
    assert {"smoke", "offline", "mobile", "voc"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_builds_every_network(name):
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


def test_voc_profile_is_the_papers_protocol():
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


def test_voc_stage2_profile_is_the_papers():
    """Sections 4.1 and 4.3: stage 1 but for these settings."""
    first, second = load_profile("voc"), load_profile("voc_stage2", {"model.init_from": "run"})
    hard = ("bicycle", "chair", "diningtable", "pottedplant", "sofa")
    changes = {"lr": 0.001, "freeze_batch_norm": True, "hard_classes": hard}
    unused = {"batch_norm_momentum": second.training.batch_norm_momentum}  # of a frozen batch norm
    assert second.training == replace(first.training, **changes, **unused)
    assert (second.data.train_list, second.model.output_stride) == ("trainval", 8)
    assert set(hard) < set(second.data.class_map().values())


def test_coco_and_cityscapes_follow_stage_1():
    """But for images, and on Cityscapes steps and crop (Appendix C)."""
    voc, coco, fine, coarse = map(load_profile, ("voc", "voc_coco", "cityscapes_fine", "cityscapes_coarse"))
    assert coco.model == fine.model == voc.model
    assert coco.training == voc.training and coco.data.class_map() == voc.data.class_map()
    assert fine.training == replace(voc.training, iterations=90_000, crop_size=769)
    assert list(fine.data.class_map().values()) == list(CLASSES.values())
    assert fine.data.class_map() == coarse.data.class_map()
    second = load_profile("voc_stage2").training
    assert coarse.training == replace(
        second, iterations=90_000, crop_size=769, hard_classes=(), grad_accum_steps=coarse.training.grad_accum_steps
    )
    assert (coarse.model.init_from, coarse.data.train_list) == ("?", "trainval_coarse")
    assert load_profile(voc.coco) == coco


def test_folder_of_voc_is_no_other_datas_folder(workspace, monkeypatch):
    monkeypatch.setenv("DEEPLABV3_DATA", "somewhere")
    roots = [load_profile(name).data_root() for name in ("voc", "voc_coco", "cityscapes_fine", "cityscapes_coarse")]
    assert roots == [Path("somewhere"), *(workspace / name for name in ("coco", "cityscapes", "cityscapes"))]


def test_profile_defaults_to_environment_then_offline(monkeypatch):
    assert load_profile().name == "offline"
    monkeypatch.setenv("DEEPLABV3_PROFILE", "voc")
    assert load_profile().name == "voc"
    assert load_profile("mobile").name == "mobile"


def test_profile_loads_from_own_file(profile_file):
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


def test_overrides_of_loaded_profile_are_not_lost(profile):
    with contextlib.suppress(UserError):  # refusing them is fine too
        assert load_profile(profile, {"seed": 4}).seed == 4


MISTAKES = [
    ({"trainng.lr": 1.0}, r"setting 'trainng' is unknown; did you mean 'training'\?"),
    ({"seed.value": 1}, "setting 'seed' is {'value': 1}; it takes a whole number"),
    ({"title": 5}, "setting 'title' is 5; it takes text"),
    ({"seed": -1}, "setting 'seed' is -1; it takes a whole number of at least 0"),
    ({"training": 5}, "setting 'training' is 5; it takes settings of its own"),
    ({"training": None}, "setting 'training' is None; it takes settings of its own"),
    ({"training.learning_rate": 1.0}, "setting 'training.learning_rate' is unknown; known are .*lr"),
    ({"training.momentun": 1.0}, r"setting 'training.momentun' is unknown; did you mean 'momentum'\?"),
    ({"training.batch": 2}, r"setting 'training.batch' is unknown; did you mean 'batch_size'\?"),
    ({"training.iterations": "many"}, "setting 'training.iterations' is 'many'; it takes a whole number"),
    ({"training.iterations": 1.5}, "setting 'training.iterations' is 1.5; it takes a whole number"),
    ({"training.iterations": True}, "setting 'training.iterations' is True; it takes a whole number"),
    ({"training.iterations": 0}, "training: setting 'iterations' is 0; it takes a whole number of at least 1"),
    ({"training.lr": "high"}, "setting 'training.lr' is 'high'; it takes a number"),
    ({"training.lr": None}, "setting 'training.lr' is None; it takes a number"),
    ({"training.lr": [0.1]}, r"setting 'training.lr' is \[0.1\]; it takes a number"),
    ({"training.lr.start": 0.1}, "setting 'training.lr.start' does not exist; 'lr' has no parts"),
    ({"training.flip": 1}, "setting 'training.flip' is 1; it takes true or false"),
    ({"training.scales": 1.0}, "setting 'training.scales' is 1.0; it takes a list"),
    ({"training.scales": []}, "training: setting 'scales' is "),
    ({"training.scales": ["a"]}, "setting 'training.scales' is 'a'; it takes a number"),
    ({"training.scales": [True]}, "setting 'training.scales' is True; it takes a number"),
    ({"training.scales": {0.5: 1.0}}, "setting 'training.scales' is {0.5: 1.0}; it takes a list"),
    ({"training.backbone_clip_norm": "x"}, "setting 'training.backbone_clip_norm' is 'x'; it takes a number or null"),
    ({"training.backbone_clip_norm": True}, "setting 'training.backbone_clip_norm' is True; it takes a number or null"),
    ({"model.rates": [6, 12]}, r"setting 'model.rates' is \[6, 12\]; it takes 'key: value' lines"),
    ({"model.rates": {6: 1}}, "model: setting 'rates.12' is None; it takes a whole number of at least 1"),
    ({"model.rates": {6: "a", 12: 1, 18: 1, 24: 1}}, "setting 'model.rates.6' is 'a'; it takes a whole number"),
    ({"model.rates": {6: True}}, "setting 'model.rates.6' is True; it takes a whole number"),
    ({"model.rates": {"six": 6}}, "setting 'model.rates' is 'six'; it takes a whole number"),
    ({"model.rates.6": 0}, "model: setting 'rates.6' is 0; it takes a whole number of at least 1"),
    ({"model.rates.30": 5}, "model: setting 'rates.30' is unknown; known are 6, 12, 18, 24"),
    (
        {"model.backbones.resnet50": "vgg16"},
        "model: setting 'backbones.resnet50' is 'vgg16'; it takes one of .*resnet50",
    ),
    (
        {"model.backbones.resnet50": ["resnet50"]},
        r"setting 'model.backbones.resnet50' is \['resnet50'\]; it takes text",
    ),
    ({"model.backbones.resnet18": "resnet50"}, "'backbones.resnet18' is unknown; known are resnet50, resnet101"),
    ({"model.backbones": {"resnet50": "resnet50"}}, "model: setting 'backbones.resnet101' is None; it takes one of"),
    ({"model.stride_unit": "caffe"}, "model: setting 'stride_unit' is 'caffe'; it takes 'last' or 'first'"),
    ({"model.dropout": 2.0}, "model: setting 'dropout' is 2.0; it takes a number from 0 to below 1"),
    ({"model.head_channels": 0}, "model: setting 'head_channels' is 0; it takes a whole number of at least 1"),
    ({"data.kind": "cityscapes"}, "data: setting 'kind' is 'cityscapes'; it takes 'synthetic' or 'voc'"),
    ({"data.classes": {"a": "b"}}, "setting 'data.classes' is 'a'; it takes a whole number"),
    ({"data.classes": {0: "background", 300: "far"}}, "data: setting 'classes' is .*; it takes label values"),
    ({"data.classes": {0: "background", 255: "void"}}, "data: label value 255 is void and cannot be a class"),
    ({"data.unlisted_labels": "void"}, "data: setting 'unlisted_labels' is 'void'; it takes 'error' or 'ignore'"),
    ({"evaluation.padding": "mirror"}, "evaluation: setting 'padding' is 'mirror'; it takes 'crop' or 'tight'"),
    ({"runtime.cache": "yes"}, "runtime: setting 'cache' is 'yes'; it takes 'auto', 'always' or 'never'"),
    ({"runtime.num_workers": -1}, "runtime: setting 'num_workers' is -1; it takes a number of at least 0"),
    ({"runtime.parallel_runs": -1}, "runtime: setting 'parallel_runs' is -1; it takes a number of at least 0"),
    ({"runtime.eval_batch_size": 0}, "runtime: setting 'eval_batch_size' is 0; it takes a number of at least 1"),
]


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES, ids=[str(o)[1:-1] for o, _ in MISTAKES])
def test_wrong_setting_is_named_with_its_profile(profile_file, overrides, sentence):
    with pytest.raises(UserError, match=f"^profile tiny-tests.yaml[,:] ?.*{sentence}") as caught:
        load_profile(str(profile_file), overrides)
    assert "\n" not in str(caught.value)


def test_key_given_twice_is_named_with_its_line(profile_file):
    profile_file.write_text(f"{profile_file.read_text()}training: {{lr: 0.1}}\n")
    line = len(profile_file.read_text().splitlines())
    with pytest.raises(
        UserError, match=rf"tiny-tests.yaml is not valid YAML \('training' is given twice.* line {line}\)"
    ):
        load_profile(str(profile_file))


def test_yaml_merge_keys_work(profile_file):
    merged = "evaluation: {<<: {crop_size: 33, padding: tight}, crop_size: 65}\n"
    profile_file.write_text(profile_file.read_text().partition("evaluation:")[0] + merged)
    evaluation = load_profile(str(profile_file)).evaluation
    assert (evaluation.crop_size, evaluation.padding) == (65, "tight")


@pytest.mark.parametrize("value", ["1e-3", "5e-2", 0.001, 1])
def test_exponent_notation_is_a_number(profile_file, value):
    """YAML 1.1 takes 1e-3 for a text."""
    values = yaml.safe_load(profile_file.read_text())
    values["training"]["lr"] = "REPLACED"
    profile_file.write_text(yaml.safe_dump(values).replace("REPLACED", str(value)))
    assert load_profile(str(profile_file)).training.lr == float(value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("title: [1, 2", "not valid YAML"),
        ("- a\n- b\n", "'setting: value' lines"),
        ("", "'setting: value' lines"),
        ("title: t\n", "'data' is missing"),
        ("title: \xe4\n", "."),
    ],
)
def test_file_that_is_no_profile_is_named(tmp_path, content, sentence):
    path = tmp_path / "own.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=sentence) as caught:
        load_profile(str(path))
    assert "own.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["offlin", "voc/../voc", "../profiles/voc", "voc.yaml/../voc"])
def test_unknown_profile_is_named_with_known_ones(name):
    with pytest.raises(UserError, match=r"is unknown; choose one of .*offline.*voc"):
        load_profile(name)


def test_missing_profile_file_is_named_with_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"profile 'nowhere.yaml' is no file in {tmp_path}"):
        load_profile("nowhere.yaml")


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "a\\b", "..", ".hidden", "", "  ", "a\nb", "C:evil", "two\0parts"]
)
def test_profile_name_is_no_path(profile_file, name):
    """It names folders in the workspace."""
    with pytest.raises(UserError, match=r"setting 'name' is .*; it takes a name without slashes"):
        load_profile(str(profile_file), {"name": name})
    profile_file.write_text(f"{profile_file.read_text()}name: {json.dumps(name)}\n")
    with pytest.raises(UserError, match="setting 'name' is "):
        load_profile(str(profile_file))


@pytest.mark.parametrize("name", ["leaf v2", "crack-2026_01", "裂缝"])
def test_profile_name_may_have_blanks_and_unicode(profile_file, name):
    assert load_profile(str(profile_file), {"name": name}).name == name


IDLE = [
    ("PROFILE", {"evaluation.output_stride": 8}, "evaluation.output_stride"),
    ("PROFILE", {"data.train": 5}, "data.train"),
    ("PROFILE", {"data.val": 5}, "data.val"),
    ("PROFILE", {"training.hard_class_copies": 3}, "training.hard_class_copies"),
    ("smoke", {"data.root": "images"}, "data.root"),
    ("smoke", {"data.unlisted_labels": "ignore"}, "data.unlisted_labels"),
    ("smoke", {"data.void": 254}, "data.void"),
]


@pytest.mark.parametrize(("name", "overrides", "setting"), IDLE, ids=[setting for *_, setting in IDLE])
def test_setting_without_effect_is_an_error(profile_file, name, overrides, setting):
    with pytest.raises(UserError, match=rf"setting '{setting}' has no effect \(.*\); leave it out"):
        load_profile(str(profile_file) if name == "PROFILE" else name, overrides)


def test_hard_class_copies_work_with_hard_classes(profile_file):
    overrides = {"training.hard_class_copies": 3, "training.hard_classes": ["disc"]}
    assert load_profile(str(profile_file), overrides).training.hard_class_copies == 3


@pytest.mark.parametrize(
    "overrides",
    [
        {"training": {"iterations": 1}, "training.lr": 0.1},
        {"training.lr": 0.1, "training": {"iterations": 1}},
        {"model.rates.6": 1, "model.rates": {6: 2, 12: 2, 18: 2, 24: 2}},
        {"data.classes": {0: "background"}, "data.classes.1": "disc"},
    ],
)
def test_override_and_its_part_are_an_error(profile_file, overrides):
    with pytest.raises(UserError, match="are both changed, and one is part of the other"):
        load_profile(str(profile_file), overrides)


@pytest.mark.parametrize("key", ["data.classes.seven", "data.classes.-1", "data.classes.1.5", "model.rates.six"])
def test_override_with_key_of_another_type_is_an_error(profile_file, key):
    with pytest.raises(UserError, match=r"it takes a whole number|does not exist"):
        load_profile(str(profile_file), {key: "disc"})


def test_with_data_replaces_root_and_weights(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed = with_data(profile, "images", "weights.pth")
    assert changed.data_root() == tmp_path / "images"
    assert changed.model.backbone_weights == str(tmp_path / "weights.pth")
    assert with_data(profile, None, "imagenet").model.backbone_weights == "imagenet"
    assert with_data(profile) == profile
    with pytest.raises(UserError, match="'offline' draws its own data"):
        with_data(load_profile("offline"), "images")


@pytest.mark.parametrize("root", ["VOC2012", "./VOC2012", "../{folder}/VOC2012", "~/VOC2012", "VOCdevkit/VOC2012"])
def test_root_is_relative_to_the_profile_file(profile_file, voc_root, root, monkeypatch, tmp_path):
    """Wherever the command is given, and whatever $DEEPLABV3_DATA says of VOC."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DEEPLABV3_DATA", str(tmp_path / "voc"))
    if root.startswith("VOCdevkit"):
        (tmp_path / "VOCdevkit").mkdir()
        voc_root = voc_root.rename(tmp_path / "VOCdevkit" / "VOC2012")
    values = yaml.safe_load(profile_file.read_text())
    values["data"]["root"] = root.format(folder=tmp_path.name)
    profile_file.write_text(yaml.safe_dump(values))
    (tmp_path / "elsewhere").mkdir()
    for cwd, name in ((tmp_path, profile_file.name), (tmp_path / "elsewhere", f"../{profile_file.name}")):
        monkeypatch.chdir(cwd)
        assert load_profile(name).data_root() == voc_root
        assert len(load_profile(name).open_data()) == 3


def test_copy_of_a_project_profile_still_means_voc(tmp_path, workspace, monkeypatch):
    copy = tmp_path / "my.yaml"
    copy.write_text((FOLDER / "mobile.yaml").read_text())
    assert load_profile(str(copy)).data_root() == load_profile("mobile").data_root() == workspace / "VOCdevkit/VOC2012"
    monkeypatch.setenv("DEEPLABV3_DATA", str(tmp_path / "voc"))
    assert load_profile(str(copy)).data_root() == load_profile("mobile").data_root() == tmp_path / "voc"


@pytest.mark.parametrize("name", ["no", "on", "7", "1e3"])
def test_class_names_that_yaml_reads_as_values_want_quotes(profile_file, name):
    values = yaml.safe_load(profile_file.read_text())
    values["data"]["classes"] = {0: "background", 1: "REPLACED"}
    profile_file.write_text(yaml.safe_dump(values).replace("REPLACED", name))
    with pytest.raises(UserError, match=r"'data\.classes\.1' is .*; it takes text, in quotes\."):
        load_profile(str(profile_file))
    profile_file.write_text(yaml.safe_dump(values).replace("REPLACED", f"'{name}'"))
    assert load_profile(str(profile_file)).data.classes[1] == name


def test_synthetic_data_is_drawn_on_first_use(workspace):
    profile = load_profile("smoke")
    assert not workspace.exists()
    data = profile.open_data()
    assert len(data) == profile.data.val
    assert len(profile.open_data("train")) == profile.data.train
    assert data.root.is_relative_to(workspace)


def test_folders_of_killed_drawings_are_removed(workspace):
    profile = load_profile("smoke")
    root = profile.data_root()
    old, young = (root.with_name(f".{root.name}-{name}") for name in ("old", "young"))
    for folder in (old, young):
        (folder / root.name).mkdir(parents=True)
    os.utime(old, (0, 0))
    assert profile.data_root() == root
    assert sorted(root.parent.iterdir()) == [young, root]


@pytest.mark.parametrize(("cache", "kept"), [("always", True), ("never", False), ("auto", True)])
def test_training_images_are_cached(voc_root, profile_file, monkeypatch, cache, kept):
    monkeypatch.setattr(voc, "allowance", lambda: 10**9)
    profile = load_profile(str(profile_file), {"runtime.cache": cache})
    assert profile.open_data("train").cached is kept
    assert not profile.open_data().cached  # evaluation looks at each once


def test_unlisted_labels_setting_keeps_run_name(voc_root, profile_file):
    """With ``error`` there is no run on such labels, so the two never have different results."""
    known = {"data.classes": {0: "background", 3: "square"}}
    strict = load_profile(str(profile_file), known)
    lenient = load_profile(str(profile_file), known | {"data.unlisted_labels": "ignore"})
    with pytest.raises(UserError, match="holds the value 7"):
        strict.open_data()[0]
    assert set(np.unique(lenient.open_data()[0][1])) == {0, 1, 255}
    assert Run.of(strict, strict.model_config()).name == Run.of(lenient, lenient.model_config()).name


def test_offline_profile_has_the_seeds_that_ship():
    with reading(SHIPPED):
        assert recorded_seeds("offline") == {*load_profile("offline").all_seeds()}


def test_seeds_from_profile_environment_or_call(monkeypatch):
    assert list(load_profile("mobile").all_seeds()) == [0]
    monkeypatch.setenv("DEEPLABV3_SEEDS", "3")
    assert list(load_profile("mobile").all_seeds()) == [0, 1, 2]
    assert list(load_profile("mobile", {"seeds": 2, "seed": 5}).all_seeds()) == [5, 6]
    monkeypatch.setenv("DEEPLABV3_SEEDS", "many")
    with pytest.raises(UserError, match="setting 'seeds' is 'many'; it takes a whole number"):
        load_profile("mobile")
    monkeypatch.setenv("DEEPLABV3_SEEDS", "0")
    with pytest.raises(UserError, match="'seeds' is 0; it takes a whole number of at least 1"):
        load_profile("mobile")


@pytest.mark.parametrize(("share", "steps"), [("5%", 125), ("2.5 %", 62), ("0%", 0), ("100%", 2500)])
def test_first_steps_as_a_share_of_all(share, steps):
    loaded = load_profile("mobile", overrides={"training.backbone_freeze_steps": share})
    assert loaded.training.backbone_freeze_steps == steps
    assert loaded == load_profile("mobile", overrides={"training.backbone_freeze_steps": steps})


def test_share_is_of_the_steps_that_are_given():
    loaded = load_profile("finetune", overrides={"training.iterations": 160})
    assert (loaded.training.backbone_freeze_steps, loaded.training.backbone_warmup_steps) == (8, 8)

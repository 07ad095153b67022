"""Bad inputs: each ends with its exit code and one sentence whose key words are here, never with a traceback."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CLASSES, write_label
from PIL import Image

from walkthrough.cli import main

SETTINGS = {
    # setting=value: key words of the sentence
    "training.lr": "should read NAME=VALUE",
    "training.lr=": "'training.lr' is None; it takes a number",
    "training.lr=[1": "not valid YAML",
    "training.lr=high": "'training.lr' is 'high'; it takes a number",
    "training.lr=-1": "'lr' is -1.0; it takes a number of at least 0",
    "training.lr=.inf": "'lr' is inf",
    "training.lr=.nan": "'lr' is nan",
    "training.lr=true": "'training.lr' is True; it takes a number",
    "training.lr=[0.1]": "'training.lr' is .0.1.; it takes a number",
    "training.lr={a: 1}": "it takes a number",
    "training.lr.x=1": "'training.lr' is {'x': 1}; it takes a number",
    "training.learning_rate=1": "'training.learning_rate' is unknown",
    "training.crop_sise=33": "did you mean 'crop_size'",
    "training.crop=33": "'training.crop' is unknown",
    "training.crop_size=2": "'crop_size' is 2; it takes a whole number of at least 9",
    "training.crop_size=0": "'crop_size' is 0",
    "training.crop_size=-33": "'crop_size' is -33",
    "training.crop_size=33.5": "it takes a whole number",
    "training.crop_size=big": "it takes a whole number",
    "training.crop_size=true": "it takes a whole number",
    "training.crop_size=[33, 33]": "it takes a whole number",
    "training.batch_size=0": "'batch_size' is 0",
    "training.batch_size=2.0": "it takes a whole number",
    "training.iterations=0": "'iterations' is 0",
    "training.iterations=1e3": "it takes a whole number",
    "training.iterations=many": "it takes a whole number",
    "training.scales=[]": "'scales' is ()",
    "training.scales=[0]": "numbers above 0 and below 100",
    "training.scales=[-1]": "numbers above 0 and below 100",
    "training.scales=[100]": "numbers above 0 and below 100",
    "training.scales=[.nan]": "numbers above 0 and below 100",
    "training.scales=1": "it takes a list",
    "training.scales=[a]": "it takes a number",
    "training.scales=[1, true]": "it takes a number",
    "training.scales={1: 2}": "it takes a list",
    "training.momentum=1.5": "a number from 0 to 1",
    "training.momentum=-0.1": "a number from 0 to 1",
    "training.power=-1": "'power' is -1.0",
    "training.power=.inf": "'power' is inf",
    "training.weight_decay=-1": "'weight_decay' is -1.0",
    "training.batch_norm_momentum=2": "'batch_norm_momentum' is 2.0",
    "training.precision=half": "one of float32, tf32, bfloat16",
    "training.precision=16": "it takes text, in quotes",
    "training.grad_accum_steps=3": "a divisor of batch_size 2",
    "training.grad_accum_steps=0": "'grad_accum_steps' is 0",
    "training.hard_class_copies=3": "'training.hard_class_copies' has no effect",
    "training.hard_classes=disc": "it takes a list",
    "training.hard_classes=[5]": "it takes text",
    "training.flip=sometimes": "it takes true or false",
    "training.flip=1": "it takes true or false",
    "training.freeze_batch_norm=2": "it takes true or false",
    "training.upsample_logits=[]": "it takes true or false",
    "training.backbone_clip_norm=0": "a number above 0, or null",
    "training.backbone_clip_norm=-1": "a number above 0, or null",
    "training.backbone_clip_norm=big": "it takes a number or null",
    "training.backbone_lr_factor=-1": "'backbone_lr_factor' is -1.0",
    "training.backbone_freeze_steps=-1": "'backbone_freeze_steps' is -1",
    "training.backbone_freeze_steps=1.5": "it takes a whole number",
    "training.backbone_freeze_steps=-5%": "it takes a whole number",
    "training.backbone_freeze_steps=200%": "it takes a whole number",
    "training.backbone_warmup_steps=-1": "'backbone_warmup_steps' is -1",
    "training=5": "'training' is 5; it takes settings of its own",
    "training=null": "'training' is None; it takes settings of its own",
    "training=[]": "it takes settings of its own",
    "evaluation.output_stride=8": "'evaluation.output_stride' has no effect",
    "evaluation.crop_size=0": "'crop_size' is 0",
    "evaluation.crop_size=wide": "it takes a whole number",
    "evaluation.padding=loose": "'crop' or 'tight'",
    "evaluation.fusion=median": "'mean' or 'max'",
    "evaluation.scales=[0]": "numbers above 0 and below 100",
    "evaluation.scales=[]": "numbers above 0 and below 100",
    "evaluation.precision=float16": "one of float32, tf32, bfloat16",
    "evaluation.tile_size=100": "at least 257, or 0 for whole images",
    "evaluation.tile_size=-1": "at least 257",
    "evaluation.flip=maybe": "it takes true or false",
    "evaluation.multi_scale=true": "'evaluation.multi_scale' is unknown",
    "model.head_channels=0": "'head_channels' is 0",
    "model.dropout=1": "a number from 0 to below 1",
    "model.dropout=-0.1": "a number from 0 to below 1",
    "model.stride_unit=middle": "'last' or 'first'",
    "model.backbones.resnet50=vgg16": "'backbones.resnet50' is 'vgg16'; it takes one of",
    "model.backbones.vgg16=small_resnet20": "'backbones.vgg16' is unknown",
    "model.backbones=small_resnet20": "it takes 'key: value' lines",
    "model.backbones={resnet50: small_resnet20}": "'backbones.resnet101' is None",
    "model.rates.6=0": "'rates.6' is 0",
    "model.rates.7=1": "'rates.7' is unknown",
    "model.rates={6: 1}": "'rates.12' is None",
    "model.rates.6=one": "it takes a whole number",
    "model.rates.six=1": "it takes a whole number",
    "data.kind=coco": "'synthetic' or 'voc'",
    "data.kind=synthetic": "numbers of at least 1",
    "data.classes=[a, b]": "it takes 'key: value' lines",
    "data.classes={0: a, 256: b}": "label values from 0 to 255",
    "data.classes={0: a, -1: b}": "label values from 0 to 255",
    "data.classes={0: a, 255: b}": "label value 255 is void and cannot be a class",
    "data.classes={0: a, 1: a}": "classes 0 and 1 have one name",
    "data.classes={0: a, 1: ' a '}": "classes 0 and 1 have one name",
    "data.classes={0: a, 1: ''}": "each with a name",
    "data.classes={0: a, 1: no}": "it takes text, in quotes",
    "data.classes={0: a, 1: 5}": "it takes text, in quotes",
    "data.classes={zero: a}": "it takes a whole number",
    "data.classes={0: a, 0: b}": "not valid YAML",
    "data.void=256": "a label value from 0 to 255",
    "data.void=3": "label value 3 is void and cannot be a class",
    "data.void=none": "it takes a whole number",
    "data.unlisted_labels=skip": "'error' or 'ignore'",
    "data.train=5": "'data.train' has no effect",
    "data.val=5": "'data.val' has no effect",
    "data.root=5": "it takes text, in quotes",
    "data.colour=red": "'data.colour' is unknown",
    "runtime.num_workers=-1": "'num_workers' is -1",
    "runtime.num_workers=1.5": "it takes a whole number",
    "runtime.workers=1": "'runtime.workers' is unknown",
    "runtime.cache=sometimes": "'auto', 'always' or 'never'",
    "runtime.eval_batch_size=0": "'eval_batch_size' is 0",
    "runtime.parallel_runs=-1": "'parallel_runs' is -1",
    "runtime.compile=2": "it takes true or false",
    "runtime.deterministic=perhaps": "it takes true or false",
    "runtime.keep_checkpoints=0": "'keep_checkpoints' is 0",
    "runtime.save_every_s=-1": "'save_every_s' is -1",
    "seed=-1": "'seed' is -1",
    "seed=1.5": "it takes a whole number",
    "seeds=0": "'seeds' is 0",
    "seeds=two": "it takes a whole number",
    "name=../evil": "a name without slashes",
    "name=a/b": "a name without slashes",
    "name=.hidden": "a name without slashes",
    "name=''": "'name' is ''",
    "name=5": "it takes text, in quotes",
    "title=5": "it takes text, in quotes",
    "colour=red": "'colour' is unknown",
    "=1": "'' is unknown",
    "training.=1": "'training.' is unknown",
}

PROFILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "should consist of 'setting: value' lines"),
    "a list": (b"[1, 2]", "should consist of 'setting: value' lines"),
    "a word": (b"offline", "should consist of 'setting: value' lines"),
    "no YAML": (b"title: [", "not valid YAML"),
    "tabs": (b"title:\n\tlong", "not valid YAML"),
    "key twice": (b"title: a\ntitle: b", "'title' is given twice, again in line 2"),
    "no UTF-8": (b"title: \xff\xfe", "not valid YAML"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0", "not valid YAML"),
    "unknown tag": (b"title: !!python/object:os.system x", "not valid YAML"),
    "no data": (b"title: t", "'data' is missing"),
    "no model": (b"title: t\ndata: 5", "'model' is missing"),
    "unknown part": (b"title: t\ntrainings: {}", "'trainings' is unknown; did you mean 'training'"),
}

USAGE = {
    # argparse's own: exit code 2
    "no command": ([], "required: COMMAND"),
    "unknown command": (["fly"], "invalid choice: 'fly'"),
    "unknown option": (["train", "--fast"], "unrecognized arguments: --fast"),
    "seed no number": (["train", "--seed", "x"], "invalid int value: 'x'"),
    "unknown head": (["train", "--head", "fcn"], "invalid choice: 'fcn'"),
    "two unit rates": (["train", "--multi-grid", "1", "2"], "expected 3 arguments"),
    "rate no number": (["train", "--rates", "a"], "invalid int value: 'a'"),
    "no run": (["evaluate"], "required: RUN"),
    "unknown padding": (["evaluate", "x", "--padding", "loose"], "invalid choice: 'loose'"),
    "two kinds of scales": (["evaluate", "x", "--multi-scale", "--scales", "1"], "not allowed with"),
    "no image": (["predict"], "required: IMAGE"),
    "tile no number": (["predict", "a.jpg", "--tile", "big"], "invalid int value: 'big'"),
    "no name of tables": (["sweep", "--tables"], "expected"),
    "unknown data set": (["data", "get", "coco"], "invalid choice: 'coco'"),
    "data without a part": (["data"], "required: "),
    "unknown export": (["export", "tflite", "a.tflite"], "invalid choice: 'tflite'"),
}


@pytest.fixture(scope="module")
def bare_profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile without its images, which a bad setting is refused before."""
    values = {
        "title": "Small",
        "data": {"kind": "voc", "root": "nowhere", "classes": CLASSES},
        "model": {
            "backbones": {"resnet50": "small_resnet20", "resnet101": "small_resnet20"},
            "rates": {6: 1, 12: 2, 18: 3, 24: 4},
        },
        "training": {"batch_size": 2, "crop_size": 33},
        "evaluation": {"crop_size": 65},
    }
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def refused(arguments: list[str], capsys: pytest.CaptureFixture, words: str, stream: str = "err") -> None:
    """The command ends with exit code 1 and a sentence with ``words`` (``check`` prints its own on stdout)."""
    assert main(arguments) == 1
    told = capsys.readouterr()
    text = getattr(told, stream)
    assert re.search(words, text) or words in text, text
    assert "Traceback" not in told.err + told.out
    if stream == "err":
        lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and "%|" not in line]
        assert len(lines) == 1 and lines[0].startswith("deeplabv3: "), text


@pytest.mark.parametrize(("setting", "words"), SETTINGS.items(), ids=SETTINGS)
def test_bad_setting_is_refused(bare_profile, workspace, capsys, setting, words):
    refused(["table", "3", "--profile", bare_profile, "--set", setting], capsys, words)
    assert not workspace.exists()


@pytest.mark.parametrize(("content", "words"), PROFILES.values(), ids=PROFILES)
def test_bad_profile_is_refused(tmp_path, capsys, content, words):
    (tmp_path / "mine.yaml").write_bytes(content)
    refused(["table", "3", "--profile", str(tmp_path / "mine.yaml")], capsys, words)


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE)
def test_bad_usage_prints_it(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and "usage: deeplabv3" in told and words in told


# --- files, which take longer


def label(root: Path, values: np.ndarray, name: str = "image_2.png", **options) -> None:
    Image.fromarray(values).save(root / "SegmentationClass" / name, **options)


def train_list(content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / "ImageSets/Segmentation/train.txt").write_bytes(content) and None


def image_file(content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / "JPEGImages/image_2.jpg").write_bytes(content) and None


def label_file(content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / "SegmentationClass/image_2.png").write_bytes(content) and None


def every_label(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for path in (root / "SegmentationClass").iterdir():
            write_label(path, change(np.asarray(Image.open(path))).astype(np.uint8))

    return spoil


def directory(name: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return spoil


EMPTY_PNG = b"\x89PNG\r\n\x1a\n"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "list empty": (train_list(b""), "train.txt is empty"),
    "list blank": (train_list(b"\n \n\t\n"), "train.txt is empty"),
    "list UTF-16": (train_list("image_0\n".encode("utf-16")), "no text file|not a text file in UTF-8"),
    "list Latin-1": (train_list("bäume\n".encode("latin-1")), "not a text file in UTF-8"),
    "list a zip": (train_list(b"PK\3\4\xff\xfe\0\0"), "not a text file in UTF-8"),
    "list of a missing image": (train_list(b"image_0\nimage_99\n"), "image_99.jpg of list 'train' is missing"),
    "list of another case": (train_list(b"IMAGE_0\n"), "IMAGE_0.jpg of list 'train' is missing"),
    "list outside the root": (train_list(b"../../etc/passwd\n"), "is missing"),
    "list of one long line": (train_list(b"x" * 100_000), "is missing"),
    "list with NUL": (train_list(b"image_0\n\0\n"), "is missing"),
    "list of image and other label": (
        train_list(b"JPEGImages/image_0.jpg SegmentationClass/image_1.png\n"),
        "an image and a label of another name",
    ),
    "list shared with val": (train_list(b"image_0\nimage_7\n"), "lists train and val share 1 image"),
    "list a folder": (directory("ImageSets/Segmentation/train.txt"), "train.txt does not exist"),
    "image empty": (image_file(b""), "image_2.jpg cannot be read"),
    "image a text": (image_file(b"not an image"), "image_2.jpg cannot be read"),
    "image a page": (image_file(b"<html><body>404</body></html>"), "image_2.jpg cannot be read"),
    "image cut": (image_file(b"\xff\xd8\xff\xe0\0\x10JFIF"), "image_2.jpg cannot be read"),
    "image a PNG's head": (image_file(EMPTY_PNG), "image_2.jpg cannot be read"),
    "image a folder": (directory("JPEGImages/image_2.jpg"), r"image_2.jpg of list 'train\w*' is missing"),
    "image of 32 bits": (
        lambda root: (
            (root / "JPEGImages/image_2.jpg").unlink(),
            Image.fromarray(np.full((37, 53), -5.0, np.float32)).save(root / "JPEGImages/image_2.tif"),
        ),
        "pixels of 32 bits, which have no fixed white",
    ),
    "label empty": (label_file(b""), "image_2.png cannot be read"),
    "label a text": (label_file(b"0 0 1"), "image_2.png cannot be read"),
    "label cut": (label_file(EMPTY_PNG + b"\0\0\0\rIHDR"), "image_2.png cannot be read"),
    "label a folder": (directory("SegmentationClass/image_2.png"), r"image_2.png of list 'train\w*' is missing"),
    "label missing": (lambda root: (root / "SegmentationClass/image_2.png").unlink(), "is missing"),
    "label of another size": (lambda root: label(root, np.zeros((5, 5), np.uint8)), "another size than its image's"),
    "label turned": (lambda root: label(root, np.zeros((53, 37), np.uint8)), "another size than its image's"),
    "label in RGB": (lambda root: label(root, np.zeros((37, 53, 3), np.uint8)), "keep one: python -c"),
    "label in colors": (
        lambda root: label(root, np.tile(np.uint8([[[128, 0, 0], [0, 128, 0]]]), (37, 27, 1))[:, :53]),
        "write_values",
    ),
    "label of many colors": (
        lambda root: label(root, np.random.default_rng(0).integers(0, 255, (37, 53, 3)).astype(np.uint8)),
        "more than 32 colors",
    ),
    "label with alpha": (lambda root: label(root, np.full((37, 53, 4), 255, np.uint8)), "is a RGBA image"),
    "label of 16 bits": (lambda root: label(root, np.full((37, 53), 700, np.uint16)), "holds the value 700"),
    "label of unlisted values": (lambda root: label(root, np.full((37, 53), 9, np.uint8)), r"outside .* \(9\)"),
    "label of gray levels": (lambda root: label(root, np.full((37, 53), 128, np.uint8)), r"outside .* \(128\)"),
    "all void": (every_label(lambda values: np.full_like(values, 255)), "is void throughout"),
    "all background": (every_label(np.zeros_like), "no pixel of class 3"),
    "all but void background": (every_label(lambda values: np.where(values == 255, 255, 0)), "hold 0 and 255 alone"),
    "black and white": (every_label(lambda values: np.where(values > 0, 255, 0)), "hold 0 and 255 alone"),
    "one class missing": (every_label(lambda values: np.where(values == 7, 0, values)), "no pixel of class 7"),
    "no images": (lambda root: [path.unlink() for path in (root / "JPEGImages").iterdir()], "is missing"),
    "no labels": (lambda root: [path.unlink() for path in (root / "SegmentationClass").iterdir()], "is missing"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "words"), FILES.values(), ids=FILES)
def test_bad_file_is_refused(voc_root, profile_file, workspace, capsys, spoil, words):
    """By ``data check``, and by ``train`` before its first step, but for lists that overlap and sizes it meets late."""
    spoil(voc_root)
    refused(["data", "check", "--profile", str(profile_file)], capsys, words, "out")
    if "share" in words:
        return
    assert main(["train", "--profile", str(profile_file)]) == 1
    told = capsys.readouterr()
    assert told.err.strip().splitlines()[-1].startswith("deeplabv3: ") and "Traceback" not in told.err
    assert not list(workspace.rglob("run.json"))


WEIGHTS: dict[str, tuple[bytes | None, str, str]] = {
    "missing": (None, "net.safetensors", "net.safetensors"),
    "empty": (b"", "net.safetensors", "damaged"),
    "a text": (b"weights", "net.safetensors", "damaged"),
    "a header too long": (b"\xff" * 64, "net.safetensors", "damaged"),
    "a safetensors of others": (b"\x08\0\0\0\0\0\0\0{}      ", "net.safetensors", "no checkpoint of this project"),
    "a pickle": (b"\x80\x04N.", "net.pth", "name torchvision's as torchvision:"),
    "torchvision's empty": (b"", "torchvision:net.pth", "net.pth"),
    "torchvision's a text": (b"weights", "torchvision:net.pth", "net.pth"),
    "torchvision's missing": (None, "torchvision:net.pth", "net.pth"),
    "an unknown network": (None, "torchvision:resnet18", "resnet18"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "named", "words"), WEIGHTS.values(), ids=WEIGHTS)
def test_bad_weights_are_refused(tmp_path, monkeypatch, capsys, content, named, words):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("photo.png")
    if content is not None:
        Path(named.removeprefix("torchvision:")).write_bytes(content)
    refused(["predict", "photo.png", "--weights", named], capsys, words)
    assert not Path("predictions").exists()


def test_table_of_bad_inputs_is_long():
    assert len(SETTINGS) + len(PROFILES) + len(USAGE) + len(FILES) + len(WEIGHTS) >= 200

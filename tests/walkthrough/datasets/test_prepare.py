"""Small VOC and SBD archives, from a server with faults to ``trainaug`` and a check without errors."""

import copy
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import numpy as np
import pytest
import tiny_sbd
from conftest import read_until
from faulty_server import Server, serve
from PIL import Image
from tiny_sbd import MORE, SBD_VALUE, TRAIN, VAL, VOC_VALUE, label_of

from deeplabv3.config import VOC_CLASSES
from deeplabv3.data import voc
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from walkthrough.cli import main
from walkthrough.datasets import prepare

ARCHIVES = {"VOC": tiny_sbd.voc_archive(), "SBD": tiny_sbd.sbd_archive()}


@pytest.fixture
def server() -> Iterator[Server]:
    files = {prepare.VOC.file: ARCHIVES["VOC"], prepare.SBD.file: ARCHIVES["SBD"]}
    with serve(files) as running:
        urls = {
            "VOC": (running.url("404", prepare.VOC.file), running.url("cut", prepare.VOC.file)),
            "SBD": (running.url("wrong", prepare.SBD.file), running.url("good", prepare.SBD.file)),
        }
        with tiny_sbd.instead_of_the_real_ones(ARCHIVES, urls):
            yield running


@pytest.fixture
def archives(tmp_path) -> Path:
    """The archives as files."""
    for name, data in ARCHIVES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def require_trainaug(root: Path) -> None:
    """The list, its images, and VOC's own labels where there are both."""
    data = VOCData(root, "trainaug", dict(enumerate(VOC_CLASSES)))
    assert data.names == sorted(TRAIN + MORE)
    for name, (_, label) in zip(data.names, data, strict=False):
        assert np.array_equal(label, label_of(name, VOC_VALUE if name in TRAIN else SBD_VALUE))


def files_of(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("named", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_and_sbd_end_to_end(server, tmp_path, capsys, named):
    """From hosts with faults to a list that trains, whatever the folder is called; the second time nothing is done."""
    root = tmp_path / "images" / named
    get = ["data", "get", "voc", "sbd", "--root", str(root)]
    assert main(get) == 0
    folder = tmp_path / "images" / "VOCdevkit" / "VOC2012"
    told = capsys.readouterr()
    assert f"voc: {folder}\n" in told.out and f"sbd: {folder}\n" in told.out
    assert "Traceback" not in told.err
    require_trainaug(root)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["VOC2012", prepare.VOC.file, prepare.SBD.file]
    assert not list(folder.rglob("*.partial*"))

    before, asked = files_of(root), len(server.asked)
    assert main(get) == 0
    assert files_of(root) == before
    assert len(server.asked) == asked

    assert main(["data", "check", str(root)]) == 0
    checked = capsys.readouterr().out
    assert "list trainaug: 9 names, as in VOC 2012" in checked
    assert "lists trainaug and val share no image" in checked


def test_default_root_of_download_and_profile_agree(server, workspace, monkeypatch, tmp_path):
    assert main(["data", "get", "voc"]) == 0
    assert (workspace / "VOCdevkit" / "VOC2012" / "JPEGImages").is_dir()
    monkeypatch.setenv("DEEPLABV3_DATA", str(tmp_path / "elsewhere"))
    assert main(["data", "get", "voc"]) == 0
    assert voc.find_root(tmp_path / "elsewhere") == tmp_path / "elsewhere" / "VOCdevkit" / "VOC2012"


def test_labels_equal_those_of_torchvision(server, tmp_path):
    """All of them, also those of VOC's val list, and as palette PNGs like VOC's."""
    from torchvision.datasets import SBDataset

    folder = prepare.get_sbd(prepare.get_voc(tmp_path))
    with tarfile.open(folder.parent / prepare.SBD.file) as archive:
        archive.extractall(tmp_path, filter="data")
    found = 0
    for image_set, names in tiny_sbd.SBD_LISTS.items():
        data = SBDataset(str(tmp_path / "benchmark_RELEASE" / "dataset"), image_set, mode="segmentation")
        for name, (_, expected) in zip(names, data, strict=False):
            with Image.open(folder / "SegmentationClassAug" / f"{name}.png") as label:
                assert np.array_equal(label, expected)
                assert np.array_equal(np.array(label.getpalette()).reshape(-1, 3), voc.palette())
            found += 1
    assert found == len(list((folder / "SegmentationClassAug").iterdir())) == 9


def test_given_archives_need_no_host(server, archives, tmp_path):
    root = tmp_path / "root"
    assert main(["data", "get", "voc", "--root", str(root), "--archive", str(archives / "VOC")]) == 0
    assert main(["data", "get", "sbd", "--root", str(root), "--archive", str(archives / "SBD")]) == 0
    require_trainaug(root)
    assert server.asked == []
    assert (archives / "VOC").is_file()


def test_url_replaces_known_hosts(server, tmp_path):
    assert main(["data", "get", "voc", "--root", str(tmp_path), "--url", server.url("good", prepare.VOC.file)]) == 0
    assert server.asked == [("good", 0)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sbd"], "run 'deeplabv3 data get voc' first"),
        (["voc", "--archive", "no.tar"], r"file no\.tar does not exist"),
        (["voc", "--archive", __file__], r"is not VOCtrainval.*delete it"),
        (["voc", "sbd", "--url", "http://127.0.0.1:9/x"], "--url and --archive stand for one archive"),
        (["weights", "--profile", "offline"], "no ImageNet weights for backbone 'small_resnet20'"),
        (["voc", "--url", "no address at all"], "could not be fetched .*unknown url type"),
    ],
)
def test_user_mistakes_are_one_sentence(server, tmp_path, capsys, words, sentence):
    root = [] if words[0] == "weights" else ["--root", str(tmp_path)]
    assert main(["data", "get", *words, *root]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("deeplabv3: ")
    assert re.search(sentence, told)


def test_incomplete_voc_is_refused_and_kept(server, tmp_path):
    folder = prepare.get_voc(tmp_path)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(TRAIN[0])
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="is not the whole of VOC 2012: its list 'train' has 1 names, not 4"):
        prepare.get_voc(tmp_path)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(TRAIN))
    (folder / "JPEGImages" / f"{VAL[0]}.jpg").unlink()
    with pytest.raises(UserError, match=f"is not the whole of VOC 2012: image .*{VAL[0]}"):
        prepare.get_sbd(tmp_path)
    assert len(files_of(tmp_path)) == len(before) - 1


def test_unusual_trainaug_count_is_reported(server, tmp_path, capsys, monkeypatch):
    prepare.get_voc(tmp_path)
    monkeypatch.setitem(voc.VOC_COUNTS, "trainaug", 10_582)
    prepare.get_sbd(tmp_path)
    assert "trainaug has 9 images here and 10,582 in the paper" in capsys.readouterr().err
    require_trainaug(tmp_path)


def test_trainaug_with_val_images_is_rewritten(server, tmp_path):
    folder = prepare.get_sbd(prepare.get_voc(tmp_path))
    path = folder / "ImageSets" / "Segmentation" / "trainaug.txt"
    path.write_text("\n".join([VAL[0], *voc.read_list(folder, "trainaug")[1:]]))
    prepare.get_sbd(tmp_path)
    require_trainaug(tmp_path)


def test_missing_images_come_from_sbd(server, tmp_path):
    folder = prepare.get_voc(tmp_path)
    path = folder / "JPEGImages" / f"{MORE[0]}.jpg"
    expected = path.read_bytes()
    path.unlink()
    prepare.get_sbd(tmp_path)
    assert path.read_bytes() == expected


def test_damaged_label_is_a_user_error(server, archives):
    folder = prepare.get_voc(archives)
    other = archives / "other.tgz"
    with tarfile.open(other, "w:gz") as archive:
        shutil.copy(__file__, archives / f"{MORE[0]}.mat")
        archive.add(archives / f"{MORE[0]}.mat", f"benchmark_RELEASE/dataset/cls/{MORE[0]}.mat")
    with pytest.raises(UserError, match=rf"label {MORE[0]}\.mat in .*other\.tgz is damaged"):
        prepare.convert(other, folder)


def test_sbd_writes_nothing_outside_its_folder(server, archives):
    """Names with paths in them: only their last part counts, and only where it is an image's name."""
    folder = prepare.get_voc(archives)
    other = archives / "other.tgz"
    with tarfile.open(other, "w:gz") as archive, tarfile.open(archives / "SBD") as good:
        for name in ("/tmp/cls/2010_000000.mat", "../../../../cls/2010_000001.mat", "cls/..\\..\\evil.mat"):
            member = good.getmember("benchmark_RELEASE/dataset/cls/2010_000000.mat")
            renamed = copy.copy(member)
            renamed.name = name
            archive.addfile(renamed, good.extractfile(member))
    before = set(archives.rglob("*"))
    prepare.convert(other, folder)
    labels = folder / "SegmentationClassAug"
    assert set(archives.rglob("*")) - before == {labels, labels / "2010_000000.png", labels / "2010_000001.png"}


@pytest.mark.parametrize("place", ["unpack", "convert"])
def test_download_after_kill_resumes(server, archives, tmp_path, place):
    """A half-unpacked VOC never bears its name, and labels that are converted already are not converted again."""
    root = tmp_path / "root"
    command = [sys.executable, str(Path(__file__).with_name("kill_get.py")), str(archives), str(root), place]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    try:
        read_until(process.stdout, b"here")
        process.kill()
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    folder = root / "VOCdevkit" / "VOC2012"
    assert folder.is_dir() == (place == "convert")
    done = files_of(folder / "SegmentationClassAug")
    assert len(done) == (3 if place == "convert" else 0)
    prepare.get_voc(root, archive=archives / "VOC")
    prepare.get_sbd(root, archive=archives / "SBD")
    require_trainaug(root)
    assert done.items() <= files_of(folder / "SegmentationClassAug").items()
    assert not list(root.rglob("*.partial*"))


def test_ctrl_c_keeps_partial_download(server, tmp_path, monkeypatch, capsys):
    """The command says so, and the same command fetches the rest only."""
    get = ["data", "get", "voc", "--root", str(tmp_path), "--url", server.url("good", prepare.VOC.file)]
    answers = []

    def interrupted(self, size, read=HTTPResponse.read):
        answers.append(size)
        if len(answers) == 3:
            raise KeyboardInterrupt
        return read(self, min(size, 1000))

    with monkeypatch.context() as patch:
        patch.setattr(HTTPResponse, "read", interrupted)
        assert main(get) == 130
    assert "interrupted" in capsys.readouterr().err
    assert (tmp_path / "VOCdevkit" / f"{prepare.VOC.file}.partial").stat().st_size == 2000
    assert main(get) == 0
    assert server.asked == [("good", 0), ("good", 2000)]


def test_rgb_labels_become_palette_labels(tmp_path):
    values = np.array([[0, 1, 2], [2, 0, 1]], np.uint8)
    colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)
    Image.fromarray(colors[values]).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "gray.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    gray = (tmp_path / "gray.png").read_bytes()
    voc.write_values(tmp_path, colors.tolist())
    with Image.open(tmp_path / "a.png") as label:
        assert (np.asarray(label) == values).all() and (np.asarray(label.convert("RGB")) == colors[values]).all()
    assert (tmp_path / "gray.png").read_bytes() == gray


def test_rgb_label_of_an_unknown_color_stays(tmp_path):
    for name, color in (("a", (128, 0, 0)), ("b", (128, 0, 1))):
        Image.new("RGB", (3, 2), color).save(tmp_path / f"{name}.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"b\.png has the color \(128, 0, 1\); add it .* Nothing is written"):
        voc.write_values(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

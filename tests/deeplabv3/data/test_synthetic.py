"""The synthetic data set: the same pixels on every machine, VOC's layout, and the mechanisms that it is made for."""

import hashlib
import json
import multiprocessing

import numpy as np
import pytest

from deeplabv3.config import SYNTHETIC_CLASSES as CLASSES
from deeplabv3.config import VOID
from deeplabv3.data import synthetic, voc
from deeplabv3.data.synthetic import DARK_LAMP, FRAME, FRAME_COLORS, ICE, LIT_LAMP, MOON, SIZES, SUN, WATER, draw, make
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from walkthrough.profiles import load_profile
from walkthrough.records.run import Run

PINNED = {
    (0, 0): "1fb6f713297c086bc163c321d7c6ecc185b92b5b4f272e5d8edb08316c19c570",
    (1, 0): "e1258418283a7ee136cfdf541e2f1619f92057a860624a0999b82a2cbda580b3",
    (7, 0): "474f23dbecc39a37a41adff3340b0b350ff094ef48bfc7754e2a46da98181811",
    (599, 0): "044f42e7807370a65dc611a78732971908cda292b555591bdead989b7907e1ab",
    (3, 1): "b4eb462a55fed1ee845af1aa17ef99a3f7ee9f8d3b2a08250c477302a692fe24",
}
"""SHA-256 of image and label of ``draw(number, seed)``. Other pixels need another ``synthetic.VERSION``."""


@pytest.fixture(scope="module")
def drawn():
    return [draw(number) for number in range(150)]


@pytest.mark.parametrize(("number", "seed"), PINNED)
def test_pixels_are_the_same_on_every_machine(number, seed):
    image, label = draw(number, seed)
    assert hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest() == PINNED[number, seed]


def test_image_depends_on_number_and_seed():
    for expected, found in zip(draw(3), draw(3), strict=True):
        assert np.array_equal(expected, found)
    assert draw(3)[0].tobytes() != draw(4)[0].tobytes()
    assert draw(3)[0].tobytes() != draw(3, seed=1)[0].tobytes()


def test_sizes_fit_the_crop(drawn):
    assert {label.shape for _, label in drawn} == set(SIZES)
    assert max(max(size) for size in SIZES) <= 257


def test_every_class_occurs_and_nothing_else(drawn):
    values, counts = np.unique(np.concatenate([label.flatten() for _, label in drawn]), return_counts=True)
    assert set(values.tolist()) == {*range(len(CLASSES)), VOID}
    shares = dict(zip(values.tolist(), counts / counts.sum(), strict=True))
    assert shares[0] < 0.9
    assert min(shares.values()) > 0.003


def test_sun_and_moon_decide_the_lamp(drawn):
    seen = {True: 0, False: 0}
    for _, label in drawn:
        has = {value: bool((label == value).any()) for value in (SUN, MOON, DARK_LAMP, LIT_LAMP)}
        assert has[DARK_LAMP] == has[SUN]
        assert has[LIT_LAMP] == has[MOON]
        assert not (has[SUN] and has[MOON])
        seen[has[SUN]] += has[SUN] or has[MOON]
    assert min(seen.values()) > 30


def test_both_lamps_look_the_same_close_by(drawn):
    """Otherwise no far context would be needed: their mean colors agree far within one lamp's own scatter."""
    colors = {
        lamp: np.array([image[label == lamp].mean(0) for image, label in drawn if (label == lamp).any()])
        for lamp in (DARK_LAMP, LIT_LAMP)
    }
    dark, lit = colors[DARK_LAMP], colors[LIT_LAMP]
    assert abs(dark.mean(0) - lit.mean(0)).max() < 4 * (dark.std(0) / len(dark) ** 0.5).max() + 1


def test_season_shows_in_the_frame_alone(drawn):
    """A pond is water or ice as the frame says, looks the same in both, and its middle is far from it."""
    colors, seasons, distances = {WATER: [], ICE: []}, set(), []
    for image, label in drawn:
        frame = np.ones(label.shape, dtype=bool)
        frame[FRAME:-FRAME, FRAME:-FRAME] = False
        assert not label[frame].any()
        season = min(FRAME_COLORS, key=lambda one: abs(image[frame].mean(0) - FRAME_COLORS[one]).sum())
        seasons.add(season)
        other = ICE if season == WATER else WATER
        assert not (label == other).any()
        if (label == season).any():
            colors[season].append(image[label == season].mean(0))
            middle = np.argwhere(label == season).mean(0)
            distances.append(min(*middle, *(label.shape - middle)))
    assert seasons == {WATER, ICE}
    assert np.median(distances) > 80  # further than two hops of block4's rate 2 at output stride 16, 32 pixels each
    water, ice = np.array(colors[WATER]), np.array(colors[ICE])
    assert abs(water.mean(0) - ice.mean(0)).max() < 4 * (water.std(0) / len(water) ** 0.5).max() + 1


def test_sky_is_far_from_the_lamp(drawn):
    """Between the centers of lamp and sky lies most of the image's smaller side."""
    for _, label in drawn:
        for lamp, sky in ((DARK_LAMP, SUN), (LIT_LAMP, MOON)):
            if (label == lamp).any():
                distance = abs(np.argwhere(label == lamp).mean(0) - np.argwhere(label == sky).mean(0)).max()
                assert distance > 0.35 * min(label.shape)


def test_objects_have_a_void_border(drawn):
    """No object touches another class without a void pixel between them, but for the frame that covers all."""
    for _, whole in drawn:
        label = whole[FRAME:-FRAME, FRAME:-FRAME]
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            differ = a != b
            assert ((a == VOID) | (b == VOID))[differ].all()


def test_written_data_set_is_read_back(tmp_path):
    root = make(tmp_path / "set", 4, 2)
    for list_name, numbers in (("train", range(4)), ("val", range(4, 6)), ("trainval", range(6))):
        data = VOCData(root, list_name, dict(enumerate(CLASSES)))
        assert len(data) == len(numbers)
        for index, number in enumerate(numbers):
            for expected, found in zip(draw(number), data[index], strict=True):
                assert np.array_equal(expected, found)
    assert make(root, 4, 2) == root


def test_other_data_set_in_folder_is_refused(tmp_path):
    root = make(tmp_path / "set", 2, 1)
    with pytest.raises(UserError, match="damaged or of another version"):
        make(root, 3, 1)
    description = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(description | {"version": 0}))
    with pytest.raises(UserError, match="another version"):
        make(root, 2, 1)
    (root / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="damaged; delete its folder"):
        make(root, 2, 1)


@pytest.mark.parametrize(("train", "val"), synthetic.HASHES)
def test_known_fingerprints_are_those_of_drawn_images(tmp_path, train, val):
    root = make(tmp_path / "set", train, val)
    for list_name in ("train", "val", "trainval"):
        assert synthetic.fingerprint(train, val, list_name) == voc.fingerprint(root, list_name)
    assert synthetic.fingerprint(train, val, "other") is None
    assert synthetic.fingerprint(train + 1, val, "train") is None


def test_other_hash_than_the_known_is_refused(tmp_path):
    root = make(tmp_path / "set", 16, 6)
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace(synthetic.HASHES[16, 6], "0" * 64))
    with pytest.raises(UserError, match="another version"):
        make(root, 16, 6)


@pytest.mark.parametrize("name", ["offline", "smoke"])
def test_profile_runs_are_named_without_drawing(name, workspace):
    profile = load_profile(name)
    run = Run.of(profile, profile.model_config())
    assert (profile.data.train, profile.data.val) in synthetic.HASHES
    assert run.name and run.evaluation_name(profile.evaluation)
    assert not workspace.exists()


def test_interrupted_drawing_leaves_no_folder(tmp_path, monkeypatch):
    def interrupted(number):
        if number == 2:
            assert not (tmp_path / "set").exists()
            raise KeyboardInterrupt
        return draw(number)

    monkeypatch.setattr(synthetic, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "set", 3, 1)
    assert list(tmp_path.iterdir()) == [tmp_path / "workspace"] or not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(VOCData(make(tmp_path / "set", 3, 1), "train", dict(enumerate(CLASSES)))) == 3


def test_two_processes_draw_the_same_folder(tmp_path):
    """Both draw, one is faster, both have the whole set."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()

    def work() -> None:
        barrier.wait()
        try:
            results.put(str(make(tmp_path / "set", 10, 2)))
        except BaseException as error:
            results.put(repr(error))

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=300) for _ in processes] == [str(tmp_path / "set")] * 2
    for process in processes:
        process.join(300)
    assert len(VOCData(tmp_path / "set", "trainval", dict(enumerate(CLASSES)))) == 12
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

"""Settings, profiles, lists and labels of any content: they are read, or end in a sentence."""

import io
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, write_voc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deeplabv3.config import DataConfig, EvaluationConfig, RuntimeConfig, TrainingConfig
from deeplabv3.data.lists import Files, read_list
from deeplabv3.data.reading import read_image, read_label
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from walkthrough.commands.options import pairs
from walkthrough.profiles import ModelSection, Profile, load_profile
from walkthrough.yaml_settings import parse_value

SECTIONS = {
    "data": DataConfig,
    "model": ModelSection,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
    "runtime": RuntimeConfig,
}
KEYS = [f"{section}.{field.name}" for section, kind in SECTIONS.items() for field in fields(kind)]
KEYS += [*SECTIONS, "name", "title", "seed", "seeds"]

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
names = st.sampled_from(["resnet50", "voc", "crop", "tight", "mean", "bfloat16", "0", "6", "auto", "disc"])
values = st.recursive(
    plain | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain | names, inner, max_size=3),
    max_leaves=6,
)
pieces = st.sampled_from(
    ["title: t", "data:", "\n", "  ", "- ", "[", "]", "{", "}", ": ", "? ", "&a ", "*a", "!!int ", "!!binary ", "<<: ",
     "2001-99-99", "0x_", "0b_", "1:99", ".", "~", "'", '"', "#", "|", "\t", "\x07", "ü", "1e3", "-.inf", "%YAML 9"]
)  # fmt: skip

few = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def sentence(error: UserError) -> bool:
    """One line that says more than a word."""
    return len(str(error)) > 30 and "\n" not in str(error) and "Traceback" not in str(error)


@few
@given(key=st.sampled_from(KEYS), value=values)
def test_any_setting_value_fits_or_is_refused(profile_file, key, value):
    try:
        profile = load_profile(str(profile_file), {key: value})
    except UserError as error:
        assert len(str(error)) > 30 and key.rpartition(".")[2].split("_")[0] in str(error)
    else:
        assert isinstance(profile, Profile)
        assert profile.model_config().num_classes == len(profile.data.class_map())


@few
@given(key=st.text(alphabet="abm.cdelrtin_g0 6", max_size=20), value=values)
def test_any_setting_key_fits_or_is_refused(profile_file, key, value):
    try:
        assert isinstance(load_profile(str(profile_file), {key: value}), Profile)
    except UserError as error:
        assert len(str(error)) > 30


@few
@given(text=st.lists(pieces, max_size=8).map("".join) | st.text(max_size=20))
def test_any_text_is_a_value_or_no_yaml(text):
    try:
        pairs([f"training.lr={text}"], "--set")
    except UserError as error:
        assert "not valid YAML" in str(error)
    else:
        parse_value(text)


@few
@given(content=st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode()) | st.binary(max_size=60))
def test_any_file_is_a_profile_or_refused(tmp_path, content):
    (tmp_path / "any.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:  # none has all that a profile needs
        load_profile(str(tmp_path / "any.yaml"))
    assert "any.yaml" in str(caught.value) and sentence(caught.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "VOC2012")


lines = st.sampled_from(
    ["image_0", "image_1.jpg", "JPEGImages/image_2.jpg", "image_3 SegmentationClass/image_3.png", "image_4 1",
     "image_5,image_6", "../image_7", "", "  ", "\ufeff", "gone", "-1", "/", "..", "\0", "ü", "u\u0308", "\r", '"']
)  # fmt: skip


@few
@given(content=st.lists(lines, max_size=6).map(lambda found: "\n".join(found).encode()) | st.binary(max_size=40))
def test_any_list_has_names_or_is_refused(root, content):
    (root / "ImageSets" / "Segmentation" / "any.txt").write_bytes(content)
    try:
        found, files = read_list(root, "any"), Files(root)
        assert found and all(name.strip() for name in found)
        for name in found:
            assert files.image(name, "any").is_relative_to(root) and files.label(name, "any").is_file()
    except UserError as error:
        assert len(str(error)) > 30 and ("any.txt" in str(error) or "'any'" in str(error))


@st.composite
def label_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray | None]:
    """A label's file and its values, None where it has none: of every mode that PNG and TIFF have."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    mode, kind = draw(st.sampled_from(["1", "L", "P", "I;16", "RGB", "RGBA", "LA", "F"])), draw(st.sampled_from("PT"))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    highest = {"1": 1, "I;16": draw(st.sampled_from([255, 256, 65535]))}.get(mode, 255)
    gray = random.integers(0, highest + 1, shape)
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16))
    elif mode == "P":
        image = Image.fromarray(gray.astype(np.uint8)).convert("P")
    elif mode == "1":
        image = Image.fromarray(gray.astype(bool))
    else:
        image = Image.fromarray(gray.astype(np.uint8)).convert(mode)
    if mode == "F":
        kind = "T"
    file = io.BytesIO()
    image.save(file, "PNG" if kind == "P" else "TIFF")
    holds = mode in ("1", "L", "P") or (mode == "I;16" and gray.max() <= 255)
    return file.getvalue(), gray if holds else None


@few
@given(label=label_files())
def test_any_label_keeps_its_values_or_is_refused(tmp_path, label):
    content, expected = label
    path = tmp_path / "label.png"
    path.write_bytes(content)
    if expected is not None:
        found = read_label(path)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    else:
        with pytest.raises(UserError, match=r"label\.png"):
            read_label(path)


@few
@given(label=label_files(), place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damaged_file_is_read_or_refused(root, label, place, byte, cut):
    """As an image, as a label, and as a data set's label."""
    content = bytearray(label[0])
    content[int(place * (len(content) - 1))] = byte
    path = root / "SegmentationClass" / "image_0.png"
    path.write_bytes(content[: int(place * len(content))] if cut else content)
    data = VOCData(root, "train", CLASSES)
    for read in (lambda: read_label(path), lambda: read_image(path), lambda: data.label(0), lambda: data[0]):
        try:
            assert read() is not None
        except UserError as error:
            assert "image_0" in str(error)

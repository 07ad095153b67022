"""Checkpoints: whole or not at all, free of pickles, and a sentence for every file that is none."""

import contextlib
import json
import math

import pytest
import torch
from conftest import small_config
from safetensors.torch import save_file

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from deeplabv3.model import checkpoint as module
from deeplabv3.model.checkpoint import Checkpoint, checkpoints, load_checkpoint, load_model, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3


def example(step: int = 7) -> Checkpoint:
    model = {"a.weight": torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last), "b": torch.tensor(3)}
    return Checkpoint(
        step, 12.5, {"model": {"grid": [1, 2, 4]}, "seed": 0}, model, {"a.weight": torch.randn(3, 4, 5, 5)}
    )


def test_saved_checkpoint_is_loaded_unchanged(tmp_path):
    saved = example()
    save_checkpoint(tmp_path / "c.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert (loaded.step, loaded.seconds, loaded.settings) == (7, 12.5, saved.settings)
    for expected, found in ((saved.model, loaded.model), (saved.momentum, loaded.momentum)):
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_failed_write_leaves_only_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example(step=1))

    def disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", disk_full)
    with pytest.raises(UserError, match=r"/c\.safetensors cannot be written .*No space left"):
        save_checkpoint(path, example(step=2))
    assert load_checkpoint(path).step == 1
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["c.safetensors"]


def test_write_atomically_replaces_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["record.json"]


@pytest.mark.parametrize("spoil", ["empty", "half", "text", "folder", "missing"])
def test_damaged_checkpoint_error_names_file(tmp_path, spoil):
    path = tmp_path / "c.safetensors"
    if spoil == "folder":
        path.mkdir()
    elif spoil != "missing":
        save_checkpoint(path, example())
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"<html>404</html>"}[spoil])
    with pytest.raises(UserError, match=r"c\.safetensors") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def position(content: bytes, value: bytes) -> int:
    """Where ``value`` is, which is there once."""
    assert content.count(value) == 1
    return content.index(value)


@pytest.mark.parametrize("place", ["first tensor", "last byte", "step", "settings", "a tensor's name"])
def test_flipped_bit_is_found(tmp_path, place):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    at = {
        "first tensor": header + 5,
        "last byte": len(content) - 1,
        "step": position(content, b'"step":"7"') + 8,
        "settings": position(content, b"seed"),
        "a tensor's name": position(content, b"model.b"),
    }
    content[at[place]] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.safetensors is (damaged or none \(its content has another|no checkpoint)"):
        load_checkpoint(path)


def test_overwritten_block_is_found(tmp_path):
    """4,000 bytes of 0xFF, as a bad sector leaves them, are NaN."""
    path = tmp_path / "c.safetensors"
    model = {"a": torch.zeros(5000)}
    save_checkpoint(path, Checkpoint(1, 0.0, {}, model, {}))
    content = bytearray(path.read_bytes())
    content[-8000:-4000] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"c\.safetensors is damaged"):
        load_checkpoint(path)


def written_without_checksum(path, model):
    header = {"step": "7", "seconds": "1.0", "settings": "{}"}
    save_file({f"model.{name}": value for name, value in model.items()}, path, metadata=header)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("checksum", [True, False], ids=["with checksum", "early"])
def test_values_that_are_not_finite_are_refused(tmp_path, value, checksum):
    path = tmp_path / "c.safetensors"
    model = {"a": torch.zeros(3, 4), "b": torch.tensor([1.0, value, 2.0])}
    if checksum:
        save_checkpoint(path, Checkpoint(7, 1.0, {}, model, {}))
    else:
        written_without_checksum(path, model)
    with pytest.raises(UserError, match=r"c\.safetensors is damaged or none \(it holds values that are not finite\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_large_finite_values_are_no_damage(tmp_path, dtype):
    """Their sum overflows."""
    largest = torch.iinfo(dtype).max if dtype == torch.int64 else torch.finfo(dtype).max
    saved = {"a": torch.full((5,), largest, dtype=dtype), "empty": torch.zeros(0), "one": torch.tensor(2)}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(7, 1.0, {}, saved, {}))
    loaded = load_checkpoint(tmp_path / "c.safetensors").model
    assert all(value.equal(loaded[name]) for name, value in saved.items())


def test_early_checkpoint_without_checksum_is_loaded(tmp_path):
    model = {"a": torch.randn(3, 4)}
    written_without_checksum(tmp_path / "c.safetensors", model)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert loaded.step == 7 and loaded.model["a"].equal(model["a"])


def test_other_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    for metadata in (None, {"format": "pt"}, {"step": "x", "seconds": "1", "settings": "{}"}):
        save_file({"features.0.weight": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(UserError, match=r"weights\.safetensors is no checkpoint"):
            load_checkpoint(path)


def test_checkpoint_restores_network(tmp_path, make_model):
    model = make_model(head="cascade", last_block=5, multi_grid=(1, 2, 1)).eval()
    settings = json.loads(json.dumps({"model": vars(model.config)}))
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(1, 0.0, settings, model.state_dict(), {}))
    loaded, checkpoint = load_model(tmp_path / "c.safetensors")
    assert loaded.config == model.config
    assert not loaded.training
    assert checkpoint.step == 1
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("change", [{"num_classes": 4}, {"color": "red"}, {"backbone": "vgg16"}])
def test_checkpoint_of_other_version_is_refused(tmp_path, change):
    model = DeepLabV3(small_config())
    settings = {"model": json.loads(json.dumps(vars(model.config))) | change}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(1, 0.0, settings, model.state_dict(), {}))
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "c.safetensors")
    assert "\n" not in str(caught.value)


def test_last_checkpoints_are_kept(tmp_path):
    path = tmp_path / "c.safetensors"
    for step in range(1, 6):
        save_checkpoint(path, example(step), keep=3)
    assert [(file.name, load_checkpoint(file).step) for file in checkpoints(path)] == [
        ("c.safetensors", 5),
        ("c-1.safetensors", 4),
        ("c-2.safetensors", 3),
    ]
    assert len(list(tmp_path.iterdir())) == 3


def test_kill_during_rotation_leaves_readable_checkpoint(tmp_path, monkeypatch):
    """Wherever a write is broken off, the newest file that is there is whole."""
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example(1), keep=2)
    original_replace = module.os.replace
    for allowed in range(4):
        done = []

        def replace(source, target, allowed=allowed, done=done):
            if len(done) == allowed:
                raise KeyboardInterrupt
            done.append(target)
            original_replace(source, target)

        monkeypatch.setattr(module.os, "replace", replace)
        with contextlib.suppress(KeyboardInterrupt):
            save_checkpoint(path, example(2), keep=2)
        monkeypatch.undo()
        assert load_checkpoint(checkpoints(path)[0]).step in (1, 2)
    assert load_checkpoint(path).step == 2

"""A step on parts of a batch is a step on the batch; bfloat16 is near float32; bootstrapping repeats images."""

import pytest
import torch
from conftest import small_config

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.step import ModelWithLoss, downsample_labels, make_optimizer, training_step


def batch(number: int = 4, size: int = 33):
    """Images and labels, where every image has another share of void."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (number, size, size, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (number, size, size), generator=generator, dtype=torch.uint8)
    for n in range(number):
        labels[n, : 8 * n] = VOID
    return images, labels


def after_one_step(frozen: bool, **changes) -> tuple[dict, float]:
    torch.manual_seed(0)
    model = DeepLabV3(small_config()).freeze_batch_norm(frozen).train()
    settings = TrainingConfig(iterations=10, batch_size=4, crop_size=33, lr=0.5, freeze_batch_norm=frozen, **changes)
    optimizer = make_optimizer(model, settings)
    loss = training_step(ModelWithLoss(model, settings), optimizer, settings, 0, 0, *batch())
    return model.state_dict(), loss.item()


@pytest.mark.parametrize("upsample", [True, False], ids=["upsampled logits", "shrunk labels"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(parts, upsample):
    """With batch norm frozen, which is what a part sees otherwise; void pixels are spread unevenly over the parts."""
    whole, loss = after_one_step(True, upsample_logits=upsample)
    state, in_parts = after_one_step(True, upsample_logits=upsample, grad_accum_steps=parts)
    assert in_parts == pytest.approx(loss, rel=1e-5)
    before = DeepLabV3(small_config()).state_dict()
    for name, value in state.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(whole["head.classifier.weight"], before["head.classifier.weight"])


def test_batch_norm_sees_a_part_only():
    """What the settings' text and notebook 6 say about accumulation: the statistics are those of a smaller batch."""
    whole, _ = after_one_step(False)
    parts, _ = after_one_step(False, grad_accum_steps=2)
    name = next(name for name in whole if name.endswith("running_var"))
    assert not torch.allclose(whole[name], parts[name], rtol=1e-6)


def test_bfloat16_is_near_float32_and_keeps_weights_and_loss_in_float32():
    exact, loss = after_one_step(True)
    rounded, near = after_one_step(True, precision="bfloat16")
    assert near == pytest.approx(loss, rel=0.02)
    assert near != loss
    assert {value.dtype for value in rounded.values()} == {value.dtype for value in exact.values()}


@pytest.mark.parametrize("changes", [{"accumulate": 3}, {"accumulate": 0}, {"precision": "half"}])
def test_impossible_settings_name_themselves(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        TrainingConfig(batch_size=4, **changes)


def test_hard_images_come_as_often_as_the_settings_say(data):
    hard = data.indices_with_classes(["disc"])
    assert hard == [n for n in range(len(data)) if (data[n][1] == 2).any()]
    some = hard[:2]
    samples = TrainingSamples(data, 33, 2, 0, again=some * 2)
    assert samples.per_epoch == (len(data) + 4) // 2 * 2
    seen = [samples.index(n) for n in range(samples.per_epoch)]
    assert sorted(seen) == sorted([*range(len(data)), *some, *some])


def test_a_hard_class_that_does_not_exist_is_named(data):
    with pytest.raises(UserError, match="'chair' is not in the class list; choose from background, square, disc"):
        data.indices_with_classes(["chair"])


def test_shares_of_a_batch_are_the_batch(data):
    """What two processes read is what one would have read, in the same order."""
    samples = TrainingSamples(data, 33, 4, 0)
    whole = list(batches(samples, 1, 3, 4))
    shares = [list(batches(samples, 1, 3, 4, share=share, shares=2)) for share in (0, 1)]
    for (images, labels), first, second in zip(whole, *shares, strict=True):
        assert torch.equal(images, torch.cat([first[0], second[0]]))
        assert torch.equal(labels, torch.cat([first[1], second[1]]))


def test_shrunk_labels_of_any_size_keep_their_corners():
    labels = torch.arange(30 * 47).view(1, 30, 47)
    small = downsample_labels(labels, (4, 6))
    assert [small[0, y, x].item() for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [0, 46, 29 * 47, 30 * 47 - 1]

"""The whole network: rates that follow the output stride, batch norm, mistakes in the configuration."""

import pytest
import torch
from conftest import small_config

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3


def test_aspp_rates_are_doubled_at_output_stride_8(make_model):
    """tensorflow/models #6257: forgetting it costs a point."""
    model = make_model(atrous_rates=(6, 12, 18))
    for output_stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36]), (16, [6, 12, 18])):
        model.set_output_stride(output_stride)
        assert [branch[0].dilation[0] for branch in model.head.branches[1:]] == rates
        assert [branch[0].padding[0] for branch in model.head.branches[1:]] == rates


@pytest.mark.parametrize("changes", [{"mean": (123.7, 116.3, 103.5)}, {"mean": (0.5,)}, {"std": (0.2, 0.0, 0.2)}])
def test_impossible_normalization_is_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"{name}.* three numbers"):
        ModelConfig(**changes)


def test_impossible_output_stride_leaves_model_unchanged(make_model):
    model = make_model().eval()
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        before = model(images)
        with pytest.raises(UserError, match="output_stride 64"):
            model.set_output_stride(64)
        assert model.output_stride == 16
        assert torch.equal(model(images), before)


def test_frozen_batch_norm_survives_train():
    """jfzhang95/pytorch-deeplab-xception #140: ``model.train()`` undoes a freeze by ``eval()``."""
    torch.manual_seed(0)
    model = DeepLabV3(small_config()).freeze_batch_norm()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [value.clone() for norm in norms for value in norm.state_dict().values()]
    images = torch.randn(2, 3, 33, 33) * 3 + 1

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model.eval()
    model.train()
    classifier = model.head.classifier.weight.clone()
    model(images).square().mean().backward()
    optimizer.step()
    after = [value for norm in norms for value in norm.state_dict().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not torch.equal(model.head.classifier.weight, classifier)

    model.freeze_batch_norm(False).train()
    model(images).square().mean().backward()
    assert all(norm.weight.grad is not None and norm.num_batches_tracked == 1 for norm in norms)


def test_batch_norm_momentum_is_one_minus_decay():
    model = DeepLabV3(small_config()).set_batch_norm_momentum(0.25).train()
    images = torch.randn(4, 3, 33, 33)
    with torch.no_grad():
        mean = model.backbone.conv1(images).mean((0, 2, 3))
        model(images)
    torch.testing.assert_close(model.backbone.bn1.running_mean, 0.25 * mean)


POOLING, CROP = "image pooling leaves one value", r"a crop within one output stride \(16 pixels\) leaves one value"


@pytest.mark.parametrize(
    ("variant", "size", "sentence"),
    [
        ({}, (33, 33), POOLING),
        ({"backbone": "mobilenet_v2"}, (33, 33), POOLING),
        ({"image_pooling": False}, (16, 16), CROP),
        ({"head": "v2"}, (1, 16), CROP),
        ({"head": "cascade", "last_block": 5}, (16, 9), CROP),
        ({"head": "cascade", "backbone": "mobilenet_v2"}, (16, 16), CROP),
    ],
)
def test_one_value_per_channel_is_refused_in_training(make_model, variant, size, sentence):
    """torchvision #1491: there it is "Expected more than 1 value per channel when training"."""
    model, image = make_model(**variant).train(), torch.randn(1, 3, *size)
    with pytest.raises(UserError, match=rf"^{sentence} .*raise 'batch_size' to at least 2, or freeze batch norm\.$"):
        model(image)
    assert model(image.repeat(2, 1, 1, 1)).isfinite().all()
    assert model.eval()(image).isfinite().all()
    assert model.freeze_batch_norm().train()(image).isfinite().all()


@pytest.mark.parametrize("size", [(17, 16), (1, 17)])
@pytest.mark.parametrize("variant", [{"image_pooling": False}, {"head": "cascade"}, {"head": "v2"}])
def test_two_values_per_channel_are_enough_in_training(make_model, variant, size):
    assert make_model(**variant).train()(torch.randn(1, 3, *size)).isfinite().all()


def test_config_lists_equal_tuples():
    assert ModelConfig(multi_grid=[1, 2, 4], atrous_rates=[6, 12, 18]) == ModelConfig()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"head": "fcn"}, "fcn"),
        ({"head": "v2", "atrous_rates": ()}, "atrous_rates"),
        ({"backbone": "vgg16"}, "vgg16"),
        ({"output_stride": 12}, "12"),
        ({"output_stride": 64}, "block4"),
        ({"multi_grid": (1, 2)}, "multi_grid"),
        ({"last_block": 3}, "last_block"),
        ({"last_block": 9, "backbone": "mobilenet_v2"}, "last_block"),
        ({"stride_unit": "caffe"}, "caffe"),
    ],
)
def test_invalid_config_is_user_error(changes, word):
    with pytest.raises(UserError, match=word):
        DeepLabV3(small_config(**changes))

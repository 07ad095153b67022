"""The whole network: output stride in place, batch norm, torchvision's results, cost."""

import pytest
import torch
from conftest import randomise, small_config
from torchvision.models.segmentation import deeplabv3_resnet50

from deeplabv3 import from_torchvision
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3, ModelConfig, multiply_adds, parameter_count


def test_logits_are_torchvisions():
    torch.manual_seed(0)
    reference = randomise(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5)).eval()
    ours = from_torchvision(reference).double()
    reference.double()
    assert ours.output_stride == 8
    for size in ((65, 65), (97, 64), (33, 130)):
        images = torch.randn(2, 3, *size, dtype=torch.double)
        with torch.no_grad():
            expected = reference(images)["out"]
            assert (expected[0] - expected[1]).std() > 0.1  # they depend on the picture
            torch.testing.assert_close(ours(images), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", [{}, {"head": "v2"}, {"head": "cascade", "last_block": 6}])
def test_output_stride_changes_in_place_and_back(make_model, variant):
    model = make_model(**variant).eval()
    images = torch.randn(1, 3, 65, 81)
    with torch.no_grad():
        at_16 = model(images)
        at_8 = model.set_output_stride(8)(images)
        assert model.output_stride == 8
        fresh = DeepLabV3(small_config(**variant, output_stride=8)).eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(images), at_8)
        assert (at_8 - at_16).abs().max() > 1e-3
        assert torch.equal(model.set_output_stride(16)(images), at_16)


def test_aspp_rates_are_doubled_at_output_stride_8(make_model):
    """tensorflow/models #6257: forgetting it costs a point."""
    model = make_model(atrous_rates=(6, 12, 18))
    for output_stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36]), (16, [6, 12, 18])):
        model.set_output_stride(output_stride)
        assert [branch[0].dilation[0] for branch in model.head.branches[1:]] == rates
        assert [branch[0].padding[0] for branch in model.head.branches[1:]] == rates


def test_an_impossible_output_stride_leaves_the_model_as_it_was(make_model):
    model = make_model().eval()
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        before = model(images)
        with pytest.raises(UserError, match="output_stride 64"):
            model.set_output_stride(64)
        assert model.output_stride == 16
        assert torch.equal(model(images), before)


@pytest.mark.parametrize("variant", [{}, {"head": "cascade", "last_block": 7}, {"backbone": "mobilenet_v2"}])
def test_parameters_do_not_depend_on_the_output_stride(variant):
    with torch.device("meta"):
        models = [DeepLabV3(small_config(**variant, output_stride=stride)) for stride in (8, 16, 32)]
    assert len({parameter_count(model) for model in models}) == 1
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize(("output_stride", "billions"), [(16, 71.1), (8, 246.2)])
def test_cost_of_the_papers_model(output_stride, billions):
    """ResNet-101 on a 513 x 513 picture, with the plain stem and strides in the first units."""
    config = ModelConfig(output_stride=output_stride, layout="torchvision")
    assert multiply_adds(config, 513, 513) / 1e9 == pytest.approx(billions, abs=0.05)


def test_frozen_batch_norm_survives_train():
    """jfzhang95/pytorch-deeplab-xception #140: ``model.train()`` undoes a freeze by ``eval()``."""
    torch.manual_seed(0)
    model = DeepLabV3(small_config()).freeze_batch_norm()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [value.clone() for norm in norms for value in norm.state_dict().values()]
    images = torch.randn(2, 3, 33, 33) * 3 + 1

    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    model.eval()
    model.train()
    classifier = model.head.classifier.weight.clone()
    model(images).square().mean().backward()
    optimiser.step()
    after = [value for norm in norms for value in norm.state_dict().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not torch.equal(model.head.classifier.weight, classifier)

    model.freeze_batch_norm(False).train()
    model(images).square().mean().backward()
    assert all(norm.weight.grad is not None and norm.num_batches_tracked == 1 for norm in norms)


def test_batch_norm_momentum_is_one_minus_the_papers_decay():
    model = DeepLabV3(small_config()).set_batch_norm_momentum(0.25).train()
    images = torch.randn(4, 3, 33, 33)
    with torch.no_grad():
        mean = model.backbone.conv1(images).mean((0, 2, 3))
        model(images)
    torch.testing.assert_close(model.backbone.bn1.running_mean, 0.25 * mean)


def test_image_pooling_refuses_a_training_batch_of_one(make_model):
    """torchvision #1491: there it is "Expected more than 1 value per channel when training"."""
    model, image = make_model().train(), torch.randn(1, 3, 33, 33)
    with pytest.raises(UserError, match=r"raise 'batch' to at least 2"):
        model(image)
    assert model.eval()(image).isfinite().all()
    assert model.freeze_batch_norm().train()(image).isfinite().all()


def test_lists_from_yaml_make_the_same_network():
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
        ({"layout": "caffe"}, "caffe"),
    ],
)
def test_mistakes_in_the_configuration_are_users_errors(changes, word):
    with pytest.raises(UserError, match=word):
        DeepLabV3(small_config(**changes))

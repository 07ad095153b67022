"""Networks for inference: folded and compiled ones have the logits of the network they are made from."""

import pytest
import torch
from conftest import randomize, small_config
from torch import nn

from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import fold_batch_norm, optimize_for_inference

VARIANTS = {
    "aspp": {},
    "cascade": {"head": "cascade", "last_block": 6, "multi_grid": (1, 2, 1)},
    "v2": {"head": "v2"},
    "mobilenet_v2": {"backbone": "mobilenet_v2"},
    "as in torchvision": {"extra_convolution": True, "align_corners": False, "stride_unit": "first"},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request) -> DeepLabV3:
    torch.manual_seed(0)
    return randomize(DeepLabV3(small_config(**request.param))).eval()


def test_folded_batch_norm_keeps_logits(model):
    """In double precision to 1e-9 of their spread; no batch norm is left to run, and the original is untouched."""
    model.double()
    images = torch.randn(2, 3, 65, 81, dtype=torch.double)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    with torch.no_grad():
        for output_stride in (16, 8):
            expected = model.set_output_stride(output_stride)(images)
            difference = (folded.set_output_stride(output_stride)(images) - expected).abs().max()
            assert difference < 1e-9 * expected.std()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_optimized_copy_is_for_inference(model):
    """It is in evaluation mode whatever the original was in, has channels last, and no gradient reaches its weights."""
    copy = optimize_for_inference(model.train())
    images = torch.randn(1, 3, 65, 81)
    with torch.no_grad():
        expected = model.eval()(images)
        # Float32 rounding: a few thousand products a value.
        assert (copy(images) - expected).abs().max() < 1e-4 * expected.std()
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    weights = [module.weight for module in copy.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_bfloat16_copy_has_logits_of_autocast(model):
    """To the bit: autocast rounds the same weights, in each call."""
    images = torch.randn(2, 3, 65, 81)
    rounded, rounding = optimize_for_inference(model, precision="bfloat16"), optimize_for_inference(model)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded(images), rounding(images))
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}


def test_compiled_copy_keeps_logits():
    torch.manual_seed(0)
    model = randomize(DeepLabV3(small_config())).eval()
    images = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        expected = model(images)
        try:
            compiled = optimize_for_inference(model, compiled=True)
            logits = compiled(images)
        except Exception as error:
            if "compiler" not in str(error).lower():
                raise
            pytest.skip("torch.compile needs a C++ compiler, and this machine has none")
    assert (logits - expected).abs().max() < 1e-4 * expected.std()
    assert (compiled.features_to_logits(images) - model.features_to_logits(images)).abs().max() < 1e-3

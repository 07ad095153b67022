"""Every variant that the paper names: it learns, and nothing but the network and the image decides its logits."""

import copy
from functools import cache

import pytest
import torch
from conftest import randomize, small_config
from torch.export import Dim, export
from torch.nn import functional as F

from deeplabv3.model.checkpoint import Checkpoint, load_model, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3

VARIANTS = {
    "aspp": {},
    "aspp at output stride 8": {"output_stride": 8, "multi_grid": (1, 1, 1)},
    "aspp without pooling": {"image_pooling": False, "multi_grid": (1, 2, 1)},
    "aspp with four rates": {"atrous_rates": (1, 2, 3, 4), "output_stride": 8, "backbone": "small_resnet29"},
    "aspp without rates": {"atrous_rates": (), "multi_grid": (2, 2, 2)},
    "aspp as in torchvision": {
        "extra_convolution": True,
        "align_corners": False,
        "stride_unit": "first",
        "multi_grid": (1, 1, 1),
        "output_stride": 8,
    },
    "aspp without batch norm": {"head_batch_norm": False},
    "cascade to block4": {"head": "cascade", "multi_grid": (1, 1, 1)},
    "cascade to block5": {"head": "cascade", "last_block": 5, "multi_grid": (1, 2, 3)},
    "cascade to block6": {"head": "cascade", "last_block": 6, "multi_grid": (2, 2, 2), "output_stride": 8},
    "cascade to block7": {"head": "cascade", "last_block": 7, "multi_grid": (1, 2, 1)},
    "v2": {"head": "v2"},
    "v2 at output stride 8": {"head": "v2", "output_stride": 8, "stride_unit": "first"},
    "mobilenet": {"backbone": "mobilenet_v2"},
    "mobilenet cascade": {"backbone": "mobilenet_v2", "head": "cascade", "last_block": 5, "output_stride": 8},
    "resnet50": {"backbone": "resnet50"},
}

SMALL = [name for name in VARIANTS if name != "resnet50"]

NEAR_ZERO = 0.02
"""A mean cross-entropy of 0.02 gives the right class 98 %."""


def one_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two noisy images of two areas each; void between them, where output stride 16 has no feature."""
    labels = torch.zeros(2, 33, 33, dtype=torch.long)
    labels[0, :, 20:], labels[1, 20:] = 1, 2
    generator = torch.Generator().manual_seed(3)
    images = F.one_hot(labels, 3).permute(0, 3, 1, 2) + 0.3 * torch.randn(2, 3, 33, 33, generator=generator)
    labels[0, :, 20:26] = labels[1, 20:26] = 255
    return images, labels


@cache
def trained(variant: str) -> tuple[DeepLabV3, float, float]:
    """A network that learned one batch until its loss is near zero, its first and its last loss; not to be changed."""
    torch.manual_seed(0)
    model = DeepLabV3(small_config(**VARIANTS[variant])).train()
    images, labels = one_batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses: list[float] = []
    while not losses or (losses[-1] > NEAR_ZERO and len(losses) < 100):
        loss = F.cross_entropy(model(images), labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        # The running statistics become the batch's; copies make the n - 1 of the running variance an n nearly.
        model.set_batch_norm_momentum(1.0)(images.repeat(16, 1, 1, 1))
    return model.eval(), losses[0], losses[-1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_overfits_one_batch(variant):
    model, first, last = trained(variant)
    assert 0.9 < first < 1.3  # log 3: the logits start near zero
    assert last < NEAR_ZERO
    images, labels = one_batch()
    with torch.no_grad():
        predicted = model(images).argmax(1)
    assert (predicted == labels)[labels != 255].float().mean() > 0.9  # in evaluation mode too


@pytest.mark.parametrize("variant", SMALL)
@pytest.mark.parametrize("size", [(33, 47), (50, 65)])
def test_logits_have_image_size(make_model, variant, size):
    model = make_model(**VARIANTS[variant]).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
        features = model.features_to_logits(torch.randn(1, 3, *size))
    assert features.shape[2:] == tuple(-(-n // model.output_stride) for n in size)
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_stride_changes_in_place_and_back(variant):
    """Bit for bit; and weights are interchangeable between output strides, in both directions."""
    torch.manual_seed(0)
    model = randomize(DeepLabV3(small_config(**VARIANTS[variant] | {"output_stride": 16}))).eval()
    fresh = DeepLabV3(small_config(**VARIANTS[variant] | {"output_stride": 8})).eval()
    images = torch.randn(1, 3, 49, 81)
    with torch.no_grad():
        at_16, at_8 = model(images), model.set_output_stride(8)(images)
        assert (at_8 - at_16).abs().max() > 1e-3
        assert model.output_stride == model.config.output_stride == 8
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(images), at_8)
        assert torch.equal(model.set_output_stride(16)(images), at_16)
        assert model.output_stride == model.config.output_stride == 16
        assert torch.equal(fresh.set_output_stride(16)(images), at_16)
        model.load_state_dict(fresh.state_dict())
        assert torch.equal(model(images), at_16)


PRECISION = {
    "aspp": 0.02,
    "cascade to block7": 0.02,
    "v2": 0.02,
    "resnet50": 0.1,  # the deeper, the more it depends on the weights that the training ended with
}
"""Root mean square difference of bfloat16 logits, as a share of the logits' spread; about half of it is measured.

bfloat16 rounds to 8 bits, up to 0.4 % of a value, after every layer. Shortcuts carry a ResNet's features past most of
these roundings.
"""


@pytest.mark.parametrize("variant", PRECISION)
def test_bfloat16_and_channels_last_keep_logits(variant):
    """Of trained networks: random deep ones amplify whatever disturbs them. channels_last only reorders sums."""
    model, _, _ = trained(variant)
    model, (images, _) = copy.deepcopy(model), one_batch()
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images)
        reordered = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert rounded.dtype == torch.bfloat16
    spread = expected.std()
    assert 0 < (rounded - expected).square().mean().sqrt() / spread < PRECISION[variant]
    assert (reordered - expected).abs().max() / spread < 1e-5


@pytest.mark.parametrize("variant", ["aspp", "aspp as in torchvision", "cascade to block7", "v2", "mobilenet"])
def test_exported_network_keeps_logits(make_model, variant):
    """One export serves every batch and every size of more than one feature; the output stride is fixed in it."""
    if torch.__version__.startswith("2.11.") and variant != "mobilenet":
        pytest.skip("PyTorch 2.11 exports max pooling for sizes of one parity")
    model = make_model(**VARIANTS[variant]).eval()
    free = {"images": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    exported = export(model, (torch.randn(2, 3, 65, 81),), dynamic_shapes=free).module()
    with torch.no_grad():
        for shape in ((2, 3, 65, 81), (1, 3, 65, 65), (3, 3, 34, 47), (1, 3, 113, 20)):
            images = torch.randn(shape)
            assert torch.equal(exported(images), model(images))


@pytest.mark.parametrize("variant", ["aspp", "aspp as in torchvision", "cascade to block7", "v2", "mobilenet"])
def test_saved_network_keeps_logits(make_model, tmp_path, variant):
    model = make_model(**VARIANTS[variant]).eval()
    settings = {"model": {name: getattr(model.config, name) for name in model.config.__dataclass_fields__}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(3, 1.0, settings, model.state_dict(), {}))
    loaded, _ = load_model(path)
    assert loaded.config == model.config
    images = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))

"""Training on a GPU: no wait in a step, the precision that was asked for, equal bits where they are promised."""

import pytest
import torch
from torch.nn import functional as F
from training_helpers import new_model, same_weights, short_config, signal_at, train

from deeplabv3.device import compute_settings
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.signals import Interrupted
from deeplabv3.training.step import ModelWithLoss, make_optimizer, training_step

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels in pinned memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 65, 65, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, (4, 65, 65), dtype=torch.uint8, generator=generator)
    return images.pin_memory(), labels.pin_memory()


def losses_of(device: torch.device, **changes) -> list[float]:
    """Losses of three steps."""
    config = short_config(**changes)
    model = new_model().to(device).to(memory_format=torch.channels_last).train()
    model_with_loss, optimizer = ModelWithLoss(model, config), make_optimizer(model, config)
    batch = [part.to(device) for part in random_batch()]
    with compute_settings(config.precision):
        return [training_step(model_with_loss, optimizer, config, 0, step, *batch).item() for step in range(3)]


@pytest.mark.parametrize("changes", [{}, {"grad_accum_steps": 2, "backbone_clip_norm": 1.0}])
def test_step_waits_for_nothing(changes):
    config = short_config(precision="bfloat16", **changes)
    model = new_model().to(GPU).to(memory_format=torch.channels_last).train()
    model_with_loss, optimizer = ModelWithLoss(model, config), make_optimizer(model, config)
    batch = random_batch()

    def step(number: int) -> None:
        images, labels = (part.to(GPU, non_blocking=True) for part in batch)
        training_step(model_with_loss, optimizer, config, 0, number, images, labels)

    step(0)  # makes the momentum, and lets cuDNN choose
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-4), ("tf32", 1e-2), ("bfloat16", 3e-2)])
def test_losses_equal_those_of_the_cpu(precision, rtol):
    assert losses_of(GPU, precision=precision) == pytest.approx(losses_of(torch.device("cpu")), rel=rtol)


def test_float32_convolution_is_not_tf32():
    torch.manual_seed(0)
    features, weight = torch.randn(2, 256, 33, 33), torch.randn(64, 256, 3, 3)
    exact = F.conv2d(features.double(), weight.double(), padding=1)

    def error(precision: str) -> float:
        with compute_settings(precision):
            found = F.conv2d(features.to(GPU), weight.to(GPU), padding=1).cpu().double()
        return ((found - exact).norm() / exact.norm()).item()

    assert error("float32") < 1e-5 < error("tf32")  # TF32 needs Ampere or newer


def test_equal_runs_give_equal_bits(tmp_path, data):
    models = [new_model(), new_model()]
    for number, model in enumerate(models):
        train(model, data, short_config(iterations=10), tmp_path / str(number), device=GPU, deterministic=True)
    assert same_weights(*models)


def test_resume_on_the_gpu_is_bit_exact(tmp_path, data):
    """With fused SGD's momentum, and a checkpoint that was copied while the GPU worked."""
    config = short_config(iterations=30)
    options = {"device": GPU, "deterministic": True, "save_every_s": 0}
    whole, resumed = new_model(), new_model()
    train(whole, data, config, tmp_path / "whole", **options)
    with pytest.raises(Interrupted):
        train(new_model(), data, config, tmp_path / "stopped", report=signal_at(3), **options)
    assert 0 < load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors").step < 30
    train(resumed, data, config, tmp_path / "stopped", **options)
    assert same_weights(resumed, whole)
    saved = load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors").model
    assert all(torch.equal(value.cpu(), saved[name]) for name, value in resumed.state_dict().items())


def test_compiled_training_is_near(tmp_path, data):
    losses: dict[bool, list[float]] = {False: [], True: []}
    for compile, seen in losses.items():
        train(
            new_model(),
            data,
            short_config(),
            tmp_path / str(compile),
            device=GPU,
            compile=compile,
            report=lambda step, loss, lr, seen=seen: seen.append(loss),
        )
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)

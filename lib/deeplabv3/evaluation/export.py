"""Networks as files for other tools: ONNX, PyTorch's exported program, or the weights alone.

Exported files take RGB images ``(batch, height, width, 3)`` uint8 of any number and size, and give logits ``(batch, K,
height, width)``: normalization and padding are inside, batch norm is folded into the convolutions, and the output
stride is fixed. The largest logit is the class that prediction in one scale finds.
"""

import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from deeplabv3.data.transforms import normalize
from deeplabv3.errors import UserError
from deeplabv3.files import atomic_path
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import fold_batch_norm

CHECKED = ((1, 65, 97), (3, 96, 33), (1, 250, 385))
"""Batch size, height and width of the images that an exported network is checked on."""

TOLERANCE = 1e-3
"""Largest error of an exported logit, as a share of the largest one: other kernels add in another order."""


def export_onnx(model: DeepLabV3, path: Path, about: Mapping[str, object]) -> tuple[float, float]:
    """Write ``model`` as ONNX and return :func:`check`'s result in ONNX Runtime; ``about`` is the file's metadata."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"exporting to ONNX needs {', '.join(missing)}; install the extra 'export': pip install -e '.[export]'."
        )
    import onnxruntime

    _refuse_path(path, ".onnx")
    exported = Exported(model)
    with atomic_path(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecated parts
        program = torch.onnx.export(
            exported,
            (_example(model),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # as with dynamo=True
        program.model.metadata_props.update({name: json.dumps(value) for name, value in about.items()})
        program.save(partial, external_data=False)
        session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])
        return check(exported, lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]))


def export_torch(model: DeepLabV3, path: Path, about: Mapping[str, object]) -> tuple[float, float]:
    """Write ``model`` as an exported program and return :func:`check`'s result on the file as it is loaded again.

    ``torch.export.load(FILE).module()`` is a function of images and needs no code of this project; ``about`` lies in
    the file as ``about.json`` (``extra_files``). Images have to be at least two pixels high, with PyTorch 2.11 also
    wide: one row of features would be a special case to PyTorch. ONNX has no such limit.
    """
    _refuse_path(path, ".pt2")
    exported = Exported(model)
    size = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    with atomic_path(path) as partial:
        program = torch.export.export(exported, (_example(model),), dynamic_shapes=(size,))
        torch.export.save(program, partial, extra_files={"about.json": json.dumps(dict(about))})
        try:
            return check(exported, torch.export.load(partial).module())
        except AssertionError as error:  # of a guard of the program
            raise UserError(
                f"PyTorch {torch.__version__} exports a program that refuses images of other sizes ({error}), so it is "
                "not kept; export with a newer PyTorch, or to ONNX."
            ) from error


def export_weights(model: DeepLabV3, path: Path, classes: Mapping[int, str]) -> None:
    """Write the network alone, as a checkpoint that ``load_weights`` reads: convolutions in float16, the rest float32.

    ``classes`` maps label values to names, in the order of the outputs.
    """
    _refuse_path(path, ".safetensors")
    state = {name: value.half() if value.ndim > 1 else value for name, value in model.state_dict().items()}
    settings = {"model": asdict(model.config), "data": {"classes": {str(key): name for key, name in classes.items()}}}
    save_checkpoint(path, Checkpoint(0, 0.0, settings, state, {}))


class Exported(nn.Module):
    """``images (N, H, W, 3)`` uint8 to logits ``(N, K, H, W)`` on the CPU, in the steps of prediction in one scale."""

    color: Tensor  # that images are padded with, normalized

    def __init__(self, model: DeepLabV3):
        super().__init__()
        self.model = fold_batch_norm(model).cpu()
        color = torch.tensor(model.config.mean_pixel, dtype=torch.uint8)[None, None, None]
        self.register_buffer("color", normalize(color, model.config.mean, model.config.std))  # (1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[1:3]
        normalized = normalize(images, self.model.config.mean, self.model.config.std)  # (N, 3, H, W)
        # To whole output strides and one pixel; by indices, since PyTorch makes padding by 0 pixels a special case.
        rows, columns = (torch.arange(side + (1 - side) % self.model.output_stride) for side in (height, width))
        inside = (rows[:, None] < height) & (columns < width)  # (H', W')
        edge = normalized[:, :, rows.clamp(max=height - 1)][:, :, :, columns.clamp(max=width - 1)]  # (N, 3, H', W')
        logits = self.model(torch.where(inside, edge, self.color))  # (N, K, H', W')
        return logits[:, :, torch.arange(height)][:, :, :, torch.arange(width)]  # (N, K, H, W)


def _example(model: DeepLabV3) -> Tensor:
    """Images to trace the network with: several features to each side, since 1 is a special case that would stick."""
    return torch.zeros(2, 4 * model.output_stride - 1, 5 * model.output_stride - 1, 3, dtype=torch.uint8)


@torch.no_grad()
def check(model: Exported, exported: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Largest difference between the logits of both on random images of other sizes, and the largest logit.

    A difference beyond rounding is a :class:`UserError`: such a file should not exist.
    """
    generator = torch.Generator().manual_seed(0)
    differences, logits = [], []
    for batch, height, width in CHECKED:
        images = torch.randint(256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
        expected = model(images)
        differences.append((exported(images) - expected).abs().max())
        logits.append(expected.abs().max())
    difference, largest = float(torch.stack(differences).max()), float(torch.stack(logits).max())
    if not difference <= TOLERANCE * largest:
        raise UserError(
            f"the exported network is wrong by {difference:.2g} (logits reach {largest:.2g}), so it is not kept; "
            "try the versions in constraints.txt."
        )
    return difference, largest


def _refuse_path(path: Path, suffix: str) -> None:
    """Raise a :class:`UserError` where ``path`` does not end in ``suffix`` or its folder does not exist."""
    if path.suffix != suffix:
        raise UserError(f"file {path} should end in {suffix}; name it so.")
    if not path.parent.is_dir():
        raise UserError(f"folder {path.parent} does not exist; make it first.")

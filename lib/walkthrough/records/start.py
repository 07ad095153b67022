"""Networks to start from (``init_from``): of a run, a checkpoint or the library, torchvision's and VainF's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from deeplabv3.config import VOC_CLASSES, ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.evaluation.predict import TORCHVISION
from deeplabv3.files import CHECKPOINT
from deeplabv3.model import pretrained
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import download, from_torchvision, read_weights, torchvision_weights
from walkthrough import paths

EQUAL_NAMES = "classes of equal name keep their rows"
"""In a run's identity: what ``new_classes`` does with the last layer."""


@dataclass(frozen=True)
class Start:
    """A trained network."""

    path: Path
    config: ModelConfig
    state: dict[str, Tensor]
    classes: tuple[str, ...]  # names in the order of the outputs; empty where nobody knows them


def find(named: str) -> Path:
    """Return the file that ``init_from`` names.

    That is ``pretrained`` for the network that comes with the library, ``torchvision`` or ``torchvision:resnet50`` for
    torchvision's (downloaded into the workspace), a file of ours, torchvision's or VainF's, or a run's name or folder.
    """
    kind, _, rest = named.partition(":")
    if named == "pretrained":
        return pretrained.FILE
    if kind != "torchvision":
        return paths.find_checkpoint(named)
    if rest and rest not in TORCHVISION:
        return Path(rest)
    weights, folder = torchvision_weights(TORCHVISION[rest or "resnet101"]), paths.workspace() / "weights"
    path = folder / Path(weights.url).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        download(weights, "torchvision's weights", "name the file as initial weights", folder)
    return path


def origin(named: str) -> str:
    """Return the name of the run, or else of the file, that ``init_from`` names, for a record: no path of a machine."""
    path = find(named)
    return path.parent.name if path.name == CHECKPOINT else path.name


@lru_cache(maxsize=1)
def load(path: Path) -> Start:
    """Load a network to start from; a file that holds none is a :class:`UserError`."""
    if _is_ours(path):
        checkpoint = load_checkpoint(path)
        try:
            config = ModelConfig(**checkpoint.settings["model"])
        except (KeyError, TypeError) as error:
            raise UserError(f"checkpoint {path} does not say what network it holds ({error}); name another.") from error
        classes = tuple(checkpoint.settings.get("data", {}).get("classes", {}).values())
        return Start(path, config, checkpoint.model, classes)
    model = from_torchvision(
        {_torchvision_name(key): value for key, value in read_weights(path).items()}, f"weights {path}"
    )
    known = VOC_CLASSES if model.config.num_classes == len(VOC_CLASSES) else ()
    return Start(path, model.config, model.state_dict(), known)


def _torchvision_name(key: str) -> str:
    """torchvision's name of a tensor, of VainF's: it has a module more, and MobileNetV2's units in two parts.

    VainF's MobileNetV2 pads before a unit's expansion and not after it, so with its weights ours has other features
    near borders: they are fit to start from.
    """
    key = key.replace("classifier.classifier.", "classifier.").replace(".low_level_features.", ".features.")
    return re.sub(r"\.high_level_features\.(\d+)", lambda found: f".features.{int(found[1]) + 4}", key)


def _is_ours(path: Path) -> bool:
    """True for a checkpoint of ours, and for a damaged file that may have been one."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "settings" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return True


def config_from(start: Start, config: ModelConfig, given: set[str]) -> ModelConfig:
    """The network of ``start`` with the run's classes, dropout and output stride, and with what is ``given``."""
    names = {"num_classes", "dropout", "output_stride"} | given
    return replace(start.config, **{name: getattr(config, name) for name in names})


def initialize(model: DeepLabV3, start: Start, classes: tuple[str, ...], new_classes: bool) -> None:
    """Load the weights of ``start`` into ``model``, whose classes are ``classes``.

    With ``new_classes`` the last layer keeps its random weights but for classes that ``start`` has too. Without it,
    other classes are a :class:`UserError`; so is another network.
    """
    state = dict(start.state)
    if new_classes:
        kept = _kept(start, classes)
        for name, value in model.state_dict().items():
            if name.startswith("head.classifier") and name in state:
                fresh, trained = value.clone(), state[name]
                if fresh.shape[1:] == trained.shape[1:]:
                    for row, own in kept.items():
                        fresh[row] = trained[own]
                state[name] = fresh
    elif start.classes and start.classes != classes:
        raise UserError(
            f"checkpoint {start.path} was trained for other classes ({', '.join(start.classes)}); give "
            "--new-classes to learn the last layer anew, or choose its profile."
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        same = "head and rates" if new_classes else "head, rates and classes, or give --new-classes for other classes"
        raise UserError(
            f"checkpoint {start.path} holds another network than the run's; choose the same {same}."
        ) from error


def with_classes(model: DeepLabV3, known: Sequence[str], classes: Sequence[str], named: str) -> DeepLabV3:
    """Network with the outputs of ``classes`` alone, in their order, of one whose outputs are called ``known``.

    A class that it does not know is a :class:`UserError` that calls it ``named``.
    """
    if missing := [name for name in classes if name not in known]:
        raise UserError(
            f"network {named} does not know {', '.join(missing)}; its classes are {', '.join(known)}: choose a profile "
            "of such classes, or fine-tune it with --init-from and --new-classes."
        )
    rows = [known.index(name) for name in classes]
    state = {
        name: value[rows] if name.startswith("head.classifier") else value for name, value in model.state_dict().items()
    }
    chosen = DeepLabV3(replace(model.config, num_classes=len(classes)))
    chosen.load_state_dict(state)
    return chosen.eval()


def _kept(start: Start, classes: tuple[str, ...]) -> dict[int, int]:
    """Output of the new network to the output of ``start`` with its class's name."""
    return {row: start.classes.index(name) for row, name in enumerate(classes) if name in start.classes}


def describe(start: Start, config: ModelConfig, classes: tuple[str, ...], new_classes: bool) -> str:
    """Lines that say which network a run starts from, and what in it is new."""
    parts = [config.backbone, config.head, f"multi-grid {' '.join(map(str, config.multi_grid))}"]
    if config.head != "cascade":
        parts.append(f"rates {' '.join(map(str, config.atrous_rates))}")
    lines = [f"starts from {start.path} ({', '.join(parts)})"]
    if new_classes:
        kept = _kept(start, classes)
        new = [name for row, name in enumerate(classes) if row not in kept]
        lines.append(f"  new in the last layer: {', '.join(new) or 'nothing'}")
        lines.append(f"  kept from it: {', '.join(classes[row] for row in kept) or 'nothing'}; all other layers")
    return "\n".join(lines)

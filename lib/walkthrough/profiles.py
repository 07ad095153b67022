"""Profiles: validated YAML files that say on which data, networks and budget the walkthrough runs."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from deeplabv3.config import DataConfig, EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data import synthetic, voc
from deeplabv3.errors import UserError, require
from deeplabv3.model.atrous import BACKBONES, LAYOUTS
from walkthrough import paths

FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Profile:
    """Everything that a profile decides.

    ``backbones`` and ``rates`` name what stands in for the paper's ResNets and for its ASPP rates at output stride 16.
    ``side_by_side`` is how many runs train at once, each with its share of the cores (0: one a GPU, or one a core).
    ``cache`` says whether training keeps its images decoded in memory: ``auto`` does where they fit into a quarter of
    what is free. ``start`` is a checkpoint that training starts from, as stage 2 does from stage 1's ("?" asks for one
    by name); ``seeds`` is how many seeds a table's cell is trained with, from ``seed`` on (``$DEEPLABV3_SEEDS`` goes
    before it); ``compiled`` has torch.compile translate the training step; ``keep`` is how many checkpoints of a run
    are kept.
    """

    name: str
    title: str
    data: DataConfig
    backbones: Mapping[str, str]
    rates: Mapping[int, int]
    training: TrainingConfig
    evaluation: EvaluationConfig
    head_channels: int = 256
    dropout: float = 0.1
    layout: str = "paper"
    backbone_weights: str = ""
    seed: int = 0
    seeds: int = 1
    side_by_side: int = 1
    workers: int = 0
    evaluation_batch: int = 1
    cache: str = "auto"
    output_stride: int = 16
    start: str = ""
    compiled: bool = False
    keep: int = 2

    def __post_init__(self):
        for paper in ("resnet50", "resnet101"):
            own = self.backbones.get(paper)
            require(own in BACKBONES, f"backbones.{paper}", own, f"one of {', '.join(BACKBONES)}")
        for rate in (6, 12, 18, 24):
            own = self.rates.get(rate)
            require(isinstance(own, int) and own >= 1, f"rates.{rate}", own, "a whole number of at least 1")
        require(self.cache in ("auto", "always", "never"), "cache", self.cache, "'auto', 'always' or 'never'")
        require(self.layout in LAYOUTS, "layout", self.layout, f"one of {', '.join(LAYOUTS)}")
        for name, lowest in (
            ("seed", 0),
            ("seeds", 1),
            ("workers", 0),
            ("side_by_side", 0),
            ("evaluation_batch", 1),
            ("keep", 1),
        ):
            require(getattr(self, name) >= lowest, name, getattr(self, name), f"a whole number of at least {lowest}")

    def all_seeds(self) -> range:
        """The seeds that a table's cell is trained with."""
        return range(self.seed, self.seed + self.seeds)

    def model_config(self, backbone: str = "resnet101", **variant: Any) -> ModelConfig:
        """The profile's network for one of the paper's, whose ``backbone`` and ``atrous_rates`` are given."""
        rates = variant.pop("atrous_rates", (6, 12, 18))
        for rate in rates:
            if rate not in self.rates:
                raise UserError(
                    f"profile {self.name}: 'rates' does not say what stands in for ASPP rate {rate}; add it."
                )
        return ModelConfig(
            num_classes=len(self.data.class_map()),
            backbone=self.backbones[backbone],
            head_channels=self.head_channels,
            dropout=self.dropout,
            layout=self.layout,
            atrous_rates=tuple(self.rates[rate] for rate in rates),
            **variant,
        )

    def data_root(self) -> Path:
        """The data set's folder; the embedded one is drawn when it is not there yet."""
        if self.data.kind == "embedded":
            folder = paths.workspace() / "synthetic" / f"v{synthetic.VERSION}-{self.data.train}-{self.data.val}"
            return synthetic.make(folder, self.data.train, self.data.val)
        named = None if Path(self.data.root).is_absolute() else os.environ.get("DEEPLABV3_DATA")
        return Path(named or paths.workspace() / self.data.root)

    def open_data(self, list_name: str | None = None) -> voc.VOCData:
        """The images of ``list_name``, by default those of the evaluation list."""
        return voc.VOCData(
            self.data_root(),
            list_name or self.data.val_list,
            self.data.class_map(),
            cache=self._caches(list_name),
            others=self.data.others,
        )

    def _caches(self, list_name: str | None) -> bool | None:
        if self.data.kind == "embedded":
            return self.cache != "never"
        # Evaluation looks at every image once, training at every image of its list many times.
        if list_name != self.data.train_list:
            return False
        return {"auto": None, "always": True, "never": False}[self.cache]


def profile_names() -> list[str]:
    """The profiles that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(profile: "str | Profile | None" = None, overrides: Mapping[str, Any] | None = None) -> Profile:
    """A profile by name or YAML file; ``None`` means ``$DEEPLABV3_PROFILE``, else ``offline``.

    ``overrides`` maps dotted settings such as ``training.lr`` to values.
    """
    if isinstance(profile, Profile):
        if overrides:
            raise UserError(f"profile {profile.name!r} is loaded already; give the overrides where it is loaded.")
        return profile
    name = profile or os.environ.get("DEEPLABV3_PROFILE") or "offline"
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"profile {name!r} is unknown; choose one of {', '.join(profile_names())}, or name a YAML file."
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"profile {path} is not valid YAML ({reason}); correct it.") from error
    if not isinstance(values, dict):
        raise UserError(f"profile {path} should be a list of 'setting: value' lines; correct it.")
    values = {"name": path.stem, **values}
    if seeds := os.environ.get("DEEPLABV3_SEEDS"):
        values["seeds"] = int(seeds) if seeds.isdecimal() else seeds
    for key, value in (overrides or {}).items():
        _set(values, key, value, path)
    return _build(Profile, values, f"profile {path.name}")


def _set(values: dict, dotted: str, value: Any, path: Path) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"setting {dotted!r} does not exist in profile {path.name}; {section!r} has no parts.")
    values[last] = value


def _build(kind: type, values: dict, where: str) -> Any:
    """Build a dataclass from plain values, strictly: unknown, missing and mistyped settings are sentences."""
    known = {item.name: item for item in fields(kind)}
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise UserError(f"{where}: setting {key!r} is unknown; {hint}")
    missing = [n for n, i in known.items() if i.default is MISSING and i.default_factory is MISSING and n not in values]
    if missing:
        raise UserError(f"{where}: setting {missing[0]!r} is missing; add it.")
    parts = {"data": DataConfig, "training": TrainingConfig, "evaluation": EvaluationConfig}
    built = {}
    for key, value in values.items():
        if kind is Profile and key in parts:
            if not isinstance(value, dict):
                raise UserError(f"{where}: setting {key!r} should have settings of its own below it.")
            built[key] = _build(parts[key], value, f"{where}, {key}")
        else:
            built[key] = _checked(known[key].type, value, f"{where}: setting {key!r}")
    try:
        return kind(**built)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _checked(annotation: Any, value: Any, where: str) -> Any:
    """Check a plain value against the simple types that settings have."""
    text = str(annotation)
    simple = {"int": int, "float": (int, float), "bool": bool, "str": str}
    name = getattr(annotation, "__name__", text)
    if "tuple" in text:
        fits, wanted = isinstance(value, (list, tuple)), "a list"
        value = tuple(value) if fits else value
    elif "Mapping" in text:
        fits, wanted = isinstance(value, dict), "a list of 'key: value' lines"
    elif "None" in text:
        fits, wanted = (
            value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)),
            "a number or null",
        )
    else:
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}[name]
        if name == "float":
            value = _number(value)
        fits = isinstance(value, simple[name]) and (name == "bool" or not isinstance(value, bool))
    if not fits:
        raise UserError(f"{where} is {value!r}; it takes {wanted}.")
    return value


def _number(value: Any) -> Any:
    """A float where ``value`` is a number, also one such as 1e-3, which YAML 1.1 takes for a text."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


def with_data(profile: Profile, root: Path | str | None = None, backbone_weights: Path | str | None = None) -> Profile:
    """The profile on another data root and with other backbone weights."""
    if root is not None:
        if profile.data.kind == "embedded":
            raise UserError(f"profile {profile.name!r} draws its own data; choose a profile with data of kind 'voc'.")
        profile = replace(profile, data=replace(profile.data, root=str(Path(root).resolve())))
    if backbone_weights is not None:
        path = backbone_weights if str(backbone_weights) == "imagenet" else Path(backbone_weights).resolve()
        profile = replace(profile, backbone_weights=str(path))
    return profile

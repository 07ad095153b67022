"""Profiles: validated YAML files with the data, networks and training budget of the walkthrough."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deeplabv3.config import DataConfig, EvaluationConfig, ModelConfig, RuntimeConfig, TrainingConfig
from deeplabv3.errors import UserError, require
from deeplabv3.files import is_old
from deeplabv3.model.atrous import BACKBONES
from walkthrough import paths
from walkthrough.yaml_settings import build, parse_value, set_value

if TYPE_CHECKING:
    from deeplabv3.data.voc import VOCData

FOLDER = Path(__file__).parent / "profiles"

VOC_ROOT = "VOCdevkit/VOC2012"
"""Root of VOC in the profiles that come with the project, in the workspace; $DEEPLABV3_DATA overrides it."""

PAPER_BACKBONES = ("resnet50", "resnet101")
PAPER_RATES = (6, 12, 18, 24)


@dataclass(frozen=True)
class ModelSection:
    """The networks of a profile: substitutes for those of the paper, and their initial weights."""

    backbones: Mapping[str, str]  # the paper's resnet50 and resnet101 to a backbone
    rates: Mapping[int, int]  # the paper's ASPP rates at output stride 16 to this profile's
    head_channels: int = 256
    dropout: float = 0.1
    stride_unit: str = "last"
    mean: tuple[float, ...] | None = None  # of red, green and blue from 0 to 1; null: ImageNet's, or init_from's
    std: tuple[float, ...] | None = None  # likewise
    # What ``train`` builds; tables have their own.
    backbone: str | None = None  # as the paper names it; null: resnet101, or init_from's
    head: str | None = None  # aspp, cascade or v2; null: aspp, or init_from's
    output_stride: int = 16
    multi_grid: tuple[int, int, int] | None = None  # null: (1, 2, 4) with aspp, else (1, 1, 1), or init_from's
    last_block: int | None = None  # null: 4, or init_from's
    atrous_rates: tuple[int, ...] | None = None  # as the paper has them; null: (6, 12, 18), or init_from's
    image_pooling: bool | None = None  # null: yes, or init_from's
    backbone_weights: str = ""  # a file, "imagenet" (downloaded), or nothing: from scratch
    extra_blocks: bool = True  # false: table rows with block5 to block7, which no weights on ImageNet have, are not run
    init_from: str = ""  # a checkpoint to start from, as stage 2 does; "?" asks for one by name
    new_classes: bool = False  # with init_from: the checkpoint has other classes, and the last layer is learned anew

    def __post_init__(self):
        require(not self.new_classes or bool(self.init_from), "new_classes", True, "a checkpoint in 'init_from'")
        for paper in PAPER_BACKBONES:
            backbone = self.backbones.get(paper)
            require(backbone in BACKBONES, f"backbones.{paper}", backbone, f"one of {', '.join(BACKBONES)}")
        for rate in PAPER_RATES:
            require(self.rates.get(rate, 0) >= 1, f"rates.{rate}", self.rates.get(rate), "a whole number of at least 1")
        for name, known in (("backbones", PAPER_BACKBONES), ("rates", PAPER_RATES)):
            for key in getattr(self, name):
                if key not in known:
                    raise UserError(f"setting '{name}.{key}' is unknown; known are {', '.join(map(str, known))}.")
        ModelConfig(**self.everywhere | ({"head": self.head} if self.head else {}))  # checks them

    @property
    def everywhere(self) -> dict[str, Any]:
        """Settings of every network of the profile, but for backbone and rates."""
        names = ("head_channels", "dropout", "stride_unit", "mean", "std")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Profile:
    """All settings of a profile: those that determine results, and in ``runtime`` those that do not."""

    name: str
    title: str
    data: DataConfig
    model: ModelSection
    training: TrainingConfig
    evaluation: EvaluationConfig
    seed: int = 0
    seeds: int = 1  # seeds of a table's cell, from ``seed`` on; $DEEPLABV3_SEEDS overrides it
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    coco: str = ""  # profile of the network on COCO that Table 6's last row starts from; empty: that row is not run
    cityscapes: bool = False  # the images are Cityscapes': Table 12 is run

    def __post_init__(self):
        require_name(self.name, "name")
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        require(self.seeds >= 1, "seeds", self.seeds, "a whole number of at least 1")

    def all_seeds(self) -> range:
        """The seeds that a table's cell is trained with."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def option(self) -> str:
        """Value of ``--profile`` that names it."""
        return self.name if self.name in profile_names() else f"{self.name}.yaml"

    @property
    def extra_data(self) -> tuple[str, ...]:
        """Data besides VOC's that the profile has for cells of tables (:func:`walkthrough.paper.tables.load`)."""
        return ("coco",) * bool(self.coco) + ("cityscapes",) * self.cityscapes

    @property
    def from_scratch(self) -> bool:
        """True where no pretrained weights are loaded."""
        return not (self.model.backbone_weights or self.model.init_from)

    def model_config(self, backbone: str = "resnet101", **variant: Any) -> ModelConfig:
        """The profile's substitute for a network of the paper, which has ``backbone`` and ``atrous_rates``."""
        rates = variant.pop("atrous_rates", (6, 12, 18))
        # DeepLabv2 states its rates for output stride 8; at 16 they are half of those that the profile lists.
        known = {rate // 2: max(1, round(own / 2)) for rate, own in self.model.rates.items()} | dict(self.model.rates)
        for rate in rates:
            if rate not in known:
                raise UserError(
                    f"profile {self.name}: 'model.rates' does not say what stands for ASPP rate {rate}; add it."
                )
        return ModelConfig(
            num_classes=len(self.data.class_map()),
            backbone=self.model.backbones[backbone],
            **self.model.everywhere,
            atrous_rates=tuple(known[rate] for rate in rates),
            **variant,
        )

    def data_root(self) -> Path:
        """Return the folder of the data set; synthetic images are drawn first if they are missing."""
        if self.data.kind == "synthetic":
            from deeplabv3.data import synthetic

            folder = paths.workspace() / "synthetic" / f"v{synthetic.VERSION}-{self.data.train}-{self.data.val}"
            for leftover in filter(is_old, folder.parent.glob(f".{folder.name}-*")):  # of a process killed in drawing
                shutil.rmtree(leftover, ignore_errors=True)
            return synthetic.make(folder, self.data.train, self.data.val)
        named = os.environ.get("DEEPLABV3_DATA") if self.data.root == VOC_ROOT else None
        return Path(named or paths.workspace() / self.data.root)

    def open_data(self, list_name: str | None = None) -> "VOCData":
        """Open the images of ``list_name``, by default those of the evaluation list."""
        from deeplabv3.data.voc import VOCData

        return VOCData(
            self.data_root(),
            list_name or self.data.val_list,
            self.data.class_map(),
            cache=self._caches(list_name),
            unlisted_labels=self.data.unlisted_labels,
            void=self.data.void,
        )

    def _caches(self, list_name: str | None) -> bool | None:
        if self.data.kind == "synthetic":
            return self.runtime.cache != "never"
        # Evaluation reads an image once, training many times.
        if list_name != self.data.train_list:
            return False
        return {"auto": None, "always": True, "never": False}[self.runtime.cache]


def require_name(name: str, setting: str) -> None:
    """Raise a :class:`UserError` for a profile's name that cannot be that of folders in the workspace."""
    plain = name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')
    require(plain and bool(name.strip()), setting, name, "a name without slashes, colons and the like")


def profile_names() -> list[str]:
    """Names of the project's profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(profile: "str | Profile | None" = None, overrides: Mapping[str, Any] | None = None) -> Profile:
    """Load a profile by name or YAML file; ``None`` means ``$DEEPLABV3_PROFILE``, else ``offline``.

    ``overrides`` maps dotted settings such as ``training.lr`` to values. A loaded profile is returned unchanged.
    """
    if isinstance(profile, Profile):
        if overrides:
            raise UserError(f"profile {profile.name!r} is loaded already; give the overrides where it is loaded.")
        return profile
    name = profile or os.environ.get("DEEPLABV3_PROFILE") or "offline"
    own = name.endswith((".yaml", ".yml"))
    path = Path(name) if own else FOLDER / f"{name}.yaml"
    if own and not path.is_file():
        raise UserError(f"profile {name!r} is no file in {Path.cwd()}; correct the path.")
    if not own and name not in profile_names():
        raise UserError(
            f"profile {name!r} is unknown; choose one of {', '.join(profile_names())}, or name a YAML file."
        )
    try:
        values = parse_value(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"profile {path} is not valid YAML ({reason}); correct it.") from error
    if not isinstance(values, dict):
        raise UserError(f"profile {path} should consist of 'setting: value' lines; correct it.")
    values = {"name": path.stem, **values}
    if path.parent != FOLDER and isinstance(values.get("data"), dict):
        values["data"] = _with_own_root(values["data"], path.parent)
    if seeds := os.environ.get("DEEPLABV3_SEEDS"):
        values["seeds"] = int(seeds) if seeds.isdecimal() else seeds
    for key, value in (overrides or {}).items():
        if whole := next((other for other in overrides or {} if key.startswith(f"{other}.")), None):
            raise UserError(f"settings {whole!r} and {key!r} are both changed, and one is part of the other; give one.")
        set_value(values, key, value, path)
    if isinstance(training := values.get("training"), dict):
        values["training"] = training | _shares_of_steps(training)
    built = build(Profile, values, f"profile {path.name}", "")
    _refuse_idle(built, values, path)
    return built


def _shares_of_steps(training: dict) -> dict:
    """Settings of the backbone's first steps that a profile gives as a share of all steps, such as 5%, in steps."""
    steps, found = training.get("iterations", TrainingConfig.iterations), {}
    for name in ("backbone_freeze_steps", "backbone_warmup_steps"):
        share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", str(training.get(name)))
        if share and float(share[1]) <= 100:  # of other steps than whole numbers, which are refused next
            found[name] = round(steps * float(share[1]) / 100) if isinstance(steps, int) else 0
    return found


def _refuse_idle(profile: Profile, values: dict, path: Path) -> None:
    """Raise a :class:`UserError` for a setting that is given and has no effect."""
    idle = {"evaluation.output_stride": "a network is evaluated at its own, or at that of --output-stride"}
    if profile.data.kind == "synthetic":
        reason = "data of kind 'synthetic' is drawn"
        idle |= {f"data.{name}": reason for name in ("root", "void", "unlisted_labels")}
    else:
        reason = "data of kind 'voc' has the images of its lists"
        idle |= {"data.train": reason, "data.val": reason}
    if not profile.training.hard_classes:
        idle["training.hard_class_copies"] = "'training.hard_classes' names no class"
    for setting, reason in idle.items():
        section, name = setting.split(".")
        if name in values.get(section, {}):
            raise UserError(f"profile {path.name}: setting {setting!r} has no effect ({reason}); leave it out.")


def _with_own_root(data: dict, folder: Path) -> dict:
    """A YAML file's section ``data``, its root absolute: it is relative to the file's folder.

    The root of the project's own profiles, which a copy of one of them may still have, means VOC unless it is there.
    """
    root = data.get("root")
    if not isinstance(root, str) or not root:
        return data
    own = (folder / Path(root).expanduser()).resolve()
    return data if root == VOC_ROOT and not own.exists() else data | {"root": str(own)}


def with_data(profile: Profile, root: Path | str | None = None, backbone_weights: Path | str | None = None) -> Profile:
    """The profile on another data root and with other backbone weights."""
    if root is not None:
        if profile.data.kind == "synthetic":
            raise UserError(f"profile {profile.name!r} draws its own data; choose a profile with data of kind 'voc'.")
        profile = replace(profile, data=replace(profile.data, root=str(Path(root).resolve())))
    if backbone_weights is not None:
        path = backbone_weights if str(backbone_weights) == "imagenet" else Path(backbone_weights).resolve()
        profile = replace(profile, model=replace(profile.model, backbone_weights=str(path)))
    return profile

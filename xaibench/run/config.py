"""The configuration of a run: TOML in, frozen dataclasses out; an unknown key names the nearest valid one.

The text below a field is its documentation: `xaibench init` and docs/configuration.md show it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from xaibench.attribution.explainers import parse_explainer
from xaibench.data.images import LARGEST_SIDE
from xaibench.distillation.methods import method_name, parse_method
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.layer_pairs import LayerPair, parse_layers
from xaibench.models.own_models import located
from xaibench.options import format_options
from xaibench.run.settings import Items, Seed, anchored, build, distinct, location, one_of, settings
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, SIGNS
from xaibench.validation import checked

__all__ = [
    "DataConfig",
    "ExplainConfig",
    "RunConfig",
    "SimilarityConfig",
    "StudentConfig",
    "TeacherConfig",
    "parse_assignment",
    "presets",
    "read_toml",
    "with_assignments",
]


def _method(text: str) -> str:
    return method_name(parse_method(text))


def _explainer(text: str, info: ValidationInfo) -> str:
    explainer: Any = parse_explainer(text)
    if str(getattr(explainer, "baseline", "")).endswith(".safetensors"):
        explainer = replace(explainer, baseline=anchored(explainer.baseline, info))
    return format_options(explainer)


def _checkpoint(text: str, info: ValidationInfo) -> str:
    return text if text.startswith(("embedded:", "installed:")) else anchored(text, info)


def _architecture(text: str, info: ValidationInfo) -> str:
    return located(text, location(info))


def _layers(layers: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    if layers is None or isinstance(layers, str):
        return None  # "auto": one spelling, so that equal runs have equal manifests
    parse_layers(layers)
    return layers


_LATER = (("data", "split"), ("data", "label_noise"), ("student", "init"))

_Path = Annotated[str, AfterValidator(anchored)]
_Architecture = Annotated[str, AfterValidator(_architecture)]
_Size = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST_SIDE)], ...], Field(strict=False, min_length=1, max_length=2)
]
_Layers = Annotated[Literal["auto"] | Annotated[tuple[str, ...], Field(strict=False)] | None, AfterValidator(_layers)]
_Names = Annotated[tuple[str, ...], Items]
_Numbers = Annotated[tuple[float, ...], Items]


@settings
class DataConfig:
    """Which images the student learns from and is judged on."""

    dataset: str = "fashion-mnist"
    """A name (`xaibench info` lists them), or "imagefolder:PATH": PATH/train/CLASS/*.png, PATH/test/CLASS/*.png."""
    subtask: str | _Names = "all"
    """The classes to tell apart: "all", a group of the dataset by name, or a list of class names."""
    root: _Path | None = None
    """Folder of a dataset that is not embedded."""
    size: _Size | None = None
    """[SIDE] or [HEIGHT, WIDTH] in pixels to which images are resized; as they are if not given."""
    download: bool = False
    """Whether torchvision may download the dataset."""
    split: Literal["stratified", "random"] = "stratified"
    """How validation images are set apart: "stratified", class by class, or "random" by PyTorch's `random_split`."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share trained on: of the images that validation leaves (stratified); of all, at most 1 - validation (random)."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training images that is held out to choose the best epoch."""
    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the images trained on that get the label of another class; validation and test keep theirs."""
    seed: Seed = 0
    """Seeds the split, the choice of images and of wrong labels."""

    @model_validator(mode="after")
    def _locate(self, info: ValidationInfo) -> DataConfig:
        kind, _, path = self.dataset.partition(":")
        if kind == "imagefolder" and path and self.root is None:  # a relative one lies in root
            object.__setattr__(self, "dataset", f"{kind}:{anchored(path, info)}")
        return self

    @property
    def label(self) -> str:
        """The dataset in a caption: its name, or that of the image folder without the path to it."""
        kind, _, path = self.dataset.partition(":")
        return Path(path).name if kind == "imagefolder" else self.dataset


@settings
class TeacherConfig:
    """The model that is distilled. Only a bare state dict needs more than its checkpoint."""

    checkpoint: Annotated[str, AfterValidator(_checkpoint)] = "embedded:fashion-mnist/teacher.safetensors"
    """A file, "embedded:NAME" or "installed:NAME" (`xaibench info` lists them)."""
    architecture: _Architecture | None = None
    """Name of the model that a bare state dict belongs to, or "file.py:Class" or "module:Class"."""
    classes: str | _Names | None = None
    """The teacher's classes in order, or the name of a class list, where the checkpoint does not say."""
    mean: _Numbers | None = None
    """A channel's mean that was subtracted in the teacher's training, pixels being 0 to 1; with std."""
    std: _Numbers | None = None
    """A channel's standard deviation that it was divided by."""


@settings
class StudentConfig:
    """The model that learns."""

    architecture: _Architecture = "resnet18-cifar:16-16-16-16@16"
    """A name with its widths, a torchvision or timm model, or your own: "file.py:Class" or "module:Class"."""
    init: Literal["architecture", "torch"] = "architecture"
    """Initial weights, "architecture": as its code draws them (torchvision: He fan-out); "torch": PyTorch's default."""
    layers: _Layers = None
    """Pairs "teacher:student" of layers that methods compare; "auto": the ends of the models' stages."""

    @property
    def pairs(self) -> tuple[LayerPair, ...] | None:
        """The layer pairs that were given; None: they are to be suggested."""
        return None if self.layers is None or self.layers == "auto" else parse_layers(self.layers)


@settings
class ExplainConfig:
    """What is explained, and how."""

    explainers: Annotated[tuple[Annotated[str, AfterValidator(_explainer)], ...], Items, AfterValidator(distinct)] = (
        "lrp",
        "ig",
    )
    """Names with options, as in "ig:tolerance=0.01,baseline=blur"."""
    images: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    """How many test images, spread evenly over the classes."""
    contrast: Literal["teacher", "own"] = "teacher"
    """The class that the explained one is held against: the teacher's runner-up for all models, or each model's own."""


@settings
class SimilarityConfig:
    """How two heatmaps are compared."""

    metrics: Annotated[tuple[Annotated[str, one_of("metric", METRICS)], ...], Items, AfterValidator(distinct)] = (
        DEFAULT_METRICS
    )
    """Names of metrics; `xaibench info` lists them."""
    grid: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None
    """Cells a side to which heatmaps are pooled; a quarter of the image's side, at most 14, if not given."""
    sign: Annotated[str, one_of("sign mode", SIGNS)] = "signed"
    """What becomes of negative relevance: "signed" keeps it, "absolute" takes its size, "positive" drops it."""


@settings
class RunConfig:
    """Everything a run depends on."""

    methods: Annotated[tuple[Annotated[str, AfterValidator(_method)], ...], Items, AfterValidator(distinct)] = (
        "student-only",
        "kd",
        "subdistill",
    )
    """Distillation methods by name and options, as in "subdistill:layer_weight=50"; "student-only" has no teacher."""
    seeds: Annotated[tuple[Seed, ...], Items, AfterValidator(distinct)] = (0,)
    """One student of each method is trained for each seed, 0 to 2147483647."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: Recipe = field(default_factory=Recipe)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)

    def __post_init__(self) -> None:
        if (self.teacher.mean is None) != (self.teacher.std is None):
            raise ConfigError("teacher.mean and teacher.std belong together: give both or neither")
        grid, size = self.similarity.grid, self.data.size
        if grid and size and grid > min(size):
            raise ConfigError(
                f"similarity.grid = {grid} does not fit images of {min(size)} pixels: choose a smaller one"
            )

    @classmethod
    @checked
    def load(cls, path: Path | str) -> RunConfig:
        """Read a TOML file, or the preset of that name."""
        return cls.from_dict(*read_toml(path))

    @classmethod
    @checked
    def parse(cls, text: str, source: str = "configuration", folder: Path | str = ".") -> RunConfig:
        """Read TOML text, whose relative paths lie in `folder`."""
        return cls.from_dict(_parsed(text, source), folder)

    @classmethod
    @checked
    def from_dict(cls, raw: dict[str, Any], folder: Path | str = ".") -> RunConfig:
        """Nested dicts (from TOML or a manifest) -> configuration; relative paths lie in `folder`."""
        return build(cls, raw, folder)

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values; `from_dict` turns them back."""
        return dataclasses.asdict(self)

    def for_digests(self) -> dict[str, Any]:
        """`to_dict` without what version 0.2 did not know, where it is the default: results of its runs stay valid."""
        raw = self.to_dict()
        for section, key in _LATER:
            if raw[section][key] == getattr(type(getattr(self, section))(), key):
                del raw[section][key]
        return raw

    @checked
    def override(self, assignments: Sequence[str]) -> RunConfig:
        """Return a copy with "train.epochs=5" style assignments applied; values are TOML, bare words are strings."""
        return RunConfig.from_dict(with_assignments(self.to_dict(), assignments))


def read_toml(path: Path | str, known: Mapping[str, str] | None = None) -> tuple[dict[str, Any], Path]:
    """What a TOML file, or the preset of that name, says, and the folder in which its relative paths lie.

    known  preset -> its TOML text; None: those of a run
    """
    known = presets() if known is None else known
    if str(path) in known:
        return _parsed(known[str(path)], f"preset {path}"), Path()
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no configuration at {path}: give a TOML file or a preset ({', '.join(known)})")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}): give a TOML file in UTF-8") from error
    return _parsed(text, str(path)), path.parent


def with_assignments(raw: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply assignments such as "train.epochs=5" to nested dicts, in place."""
    for key, value in map(parse_assignment, assignments):
        *sections, last = key.split(".")
        target = raw
        for section in sections:
            target = target.get(section)  # type: ignore[assignment]
            if not isinstance(target, dict):
                raise unknown_name("section", section, [k for k, v in raw.items() if isinstance(v, dict)])
        target[last] = value
    return raw


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """ "train.epochs=5" -> ("train.epochs", 5); the value is TOML, or else the text as it stands."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"'{assignment}' is not of the form section.key=value, as in train.epochs=5")
    try:
        return key.strip(), tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error


def presets(package: str = "xaibench.run") -> dict[str, str]:
    """Preset name -> its TOML text, of those beside the modules of a package."""
    folder = resources.files(package) / "presets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text("utf-8") for file in files}

"""The configuration of a run: TOML in, frozen dataclasses out; an unknown key names the nearest valid one."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from xaibench.attribution.explainers import parse_explainer
from xaibench.distillation.methods import parse_method
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.layer_pairs import LayerPair, parse_layers
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, SIGNS

__all__ = [
    "DataConfig",
    "ExplainConfig",
    "RunConfig",
    "SimilarityConfig",
    "StudentConfig",
    "TeacherConfig",
    "presets",
]


@dataclass(frozen=True)
class DataConfig:
    """Which images: arguments of `data.load_task`."""

    dataset: str = "fashion-mnist"
    subtask: str | tuple[str, ...] = "all"
    root: str | None = None
    size: tuple[int, ...] | None = None
    download: bool = False
    fraction: float = 1.0
    validation: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class TeacherConfig:
    """checkpoint: a path, "embedded:NAME" or "installed:NAME" (`models.imagenet`).

    The rest is needed for a bare state dict only.
    """

    checkpoint: str = "embedded:fashion-mnist/teacher.safetensors"
    architecture: str | None = None
    classes: str | tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class StudentConfig:
    """layers: "teacher:student" pairs; "auto" or None: those that `models.layers.suggest_layers` finds."""

    architecture: str = "resnet18-cifar:16-16-16-16@16"
    layers: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.layers == "auto":
            object.__setattr__(self, "layers", None)  # one spelling, so that equal runs have equal manifests
        if isinstance(self.layers, str):
            raise ConfigError(f"student.layers must be 'auto' or a list of teacher:student pairs, got '{self.layers}'")
        if self.layers is not None:
            parse_layers(self.layers)

    @property
    def pairs(self) -> tuple[LayerPair, ...] | None:
        """The layer pairs that were given; None: they are to be suggested."""
        return None if self.layers is None or isinstance(self.layers, str) else parse_layers(self.layers)


@dataclass(frozen=True)
class ExplainConfig:
    """images: how many test images, spread evenly over the classes. contrast: "teacher" (one question) or "own"."""

    explainers: tuple[str, ...] = ("lrp", "ig")
    images: int = 100
    contrast: str = "teacher"


@dataclass(frozen=True)
class SimilarityConfig:
    """metrics: names in `METRICS`. grid: cells a side, None for min(14, side // 4). sign: see `with_sign`."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    grid: int | None = None
    sign: str = "signed"


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on. `train` holds the fields of `Recipe`."""

    methods: tuple[str, ...] = ("student-only", "kd", "subdistill")
    seeds: tuple[int, ...] = (0,)
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: Recipe = field(default_factory=Recipe)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds:
            raise ConfigError("a run needs at least one method and one seed")
        for name, values in (
            ("methods", self.methods),
            ("seeds", self.seeds),
            ("explainers", self.explain.explainers),
        ):
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} = {list(values)} names one twice: keep each once")
        if any(seed < 0 for seed in self.seeds):
            raise ConfigError(f"seeds must be at least 0, got {list(self.seeds)}")
        for method in self.methods:
            parse_method(method)
        for explainer in self.explain.explainers:
            parse_explainer(explainer)
        for metric in self.similarity.metrics:
            if metric not in METRICS:
                raise unknown_name("metric", metric, METRICS)
        if self.similarity.sign not in SIGNS:
            raise unknown_name("sign mode", self.similarity.sign, SIGNS)
        if self.explain.contrast not in ("teacher", "own"):
            raise unknown_name("contrast", self.explain.contrast, ("teacher", "own"))
        size = self.data.size
        if size is not None and (len(size) not in (1, 2) or min(size) < 1):
            raise ConfigError(f"data.size must be [SIDE] or [HEIGHT, WIDTH] in pixels, got {list(size)}")
        if (self.teacher.mean is None) != (self.teacher.std is None):
            raise ConfigError("teacher.mean and teacher.std belong together: give both or neither")
        if self.explain.images < 2:
            raise ConfigError(f"explain.images must be at least 2, got {self.explain.images}")

    @classmethod
    def load(cls, path: Path | str) -> RunConfig:
        """Read a TOML file, or the preset of that name."""
        if str(path) in presets():
            return cls.parse(presets()[str(path)], source=f"preset {path}")
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"no configuration at {path}: give a TOML file or a preset ({', '.join(presets())})")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path} ({error}): give a TOML file in UTF-8") from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, source: str = "configuration") -> RunConfig:
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source} is not valid TOML: {error}") from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> RunConfig:
        """Nested dicts (from TOML or a manifest) -> configuration."""
        result: RunConfig = _build(cls, raw, "")
        return result

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values; `from_dict` turns them back."""
        return dataclasses.asdict(self)

    def override(self, assignments: list[str]) -> RunConfig:
        """Return a copy with "train.epochs=5" style assignments applied; values are TOML, bare words are strings."""
        raw = self.to_dict()
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"'{assignment}' is not of the form section.key=value, as in train.epochs=5")
            try:
                value = tomllib.loads(f"v = {text}")["v"]
            except tomllib.TOMLDecodeError:
                value = text
            *sections, last = key.strip().split(".")
            target = raw
            for section in sections:
                target = target.get(section)  # type: ignore[assignment]
                if not isinstance(target, dict):
                    raise unknown_name("section", section, [k for k, v in raw.items() if isinstance(v, dict)])
            target[last] = value
        return RunConfig.from_dict(raw)


def presets() -> dict[str, str]:
    """Preset name -> its TOML text."""
    folder = resources.files("xaibench.run") / "presets"
    return {f.name.removesuffix(".toml"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".toml")}


def _build(cls: Any, raw: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            raise unknown_name(f"key{' in [' + where + ']' if where else ''}", key, hints)
        name = f"{where}.{key}" if where else key
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"{name} must be a table, got {value!r}")
            values[key] = _build(hints[key], value, key)
        else:
            values[key] = _convert(value, hints[key], name)
    return cls(**values)


def _convert(value: Any, hint: Any, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None):
            if value is None:
                return None
        elif typing.get_origin(option) is tuple:
            if isinstance(value, (list, tuple)):
                item = typing.get_args(option)[0]
                return tuple(_convert(v, item, f"{name} item") for v in value)
        elif option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return value
    wanted = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise ConfigError(f"{name} must be {wanted}, got {value!r}")

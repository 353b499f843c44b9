"""The configuration of a study: that of a run, with lists in place of single values.

about = "what it is for"
claim = "kd"                            # or control = "kd"; without either all pairs of methods are compared
methods = ["kd", "subdistill"]          # as of a run, and so on for every section
seeds = [0, 1, 2]

[vary]                                  # the axes of the grid: a key of a run -> the values that it takes
"data.subtask" = ["people", "trees"]
"data.fraction" = [0.8, 0.1]

[[vary.pair]]                           # an axis of several keys that change together, each value with a name
name = "mobile"
"student.architecture" = "timm:mobilenetv4_conv_small"

[small]                                 # what `--scale small` changes: any of the above
seeds = [0]
vary."data.subtask" = ["people"]
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from xaibench.distillation.methods import method_name, parse_method
from xaibench.errors import ConfigError, XaibenchError, unknown_name
from xaibench.run.config import RunConfig, parse_assignment, presets, read_toml, with_assignments
from xaibench.run.ledger import digest
from xaibench.validation import checked

__all__ = ["SCALES", "SUBTASK", "Condition", "StudyConfig"]

SCALES = ("full", "small")

SUBTASK = "subtask"
"""The axis whose values are the units that a claim about methods is tested on."""

_TAKEN = (
    *("run", "method", "seed", "accuracy", "agreement", "image", "explainer", "metric", "pairing", "value", "group"),
    *("images", "students", "done", "minutes"),
)
"""Columns of a study's tables: no axis is called so."""

_OWN = ("about", "claim", "control", "vary", "small")
_SHARED = ("methods", "seeds", "similarity.metrics")
"""What all runs of a study have in common: no axis sets it."""
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Condition:
    """A point of the grid: one run of all methods and seeds.

    name    of its run folder
    levels  (axis, value) in the order of the axes, as text
    """

    name: str
    levels: tuple[tuple[str, str], ...]
    config: RunConfig


@dataclass(frozen=True)
class StudyConfig:
    """What a study asks.

    conditions  the runs, in the order of the grid: the last axis changes fastest
    axes        axis ("subtask") -> its values, as text; none for a study of one run
    about       what the study is for
    claim       the method that is claimed to be better than every other: it is tested against each, one-sided
    control     the method that every other is held against, two-sided; "" with no claim either tests all pairs
    """

    conditions: tuple[Condition, ...]
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    about: str = ""
    claim: str = ""
    control: str = ""

    @classmethod
    @checked
    def load(cls, path: Path | str, assignments: Sequence[str] = (), scale: str = "full") -> StudyConfig:
        """Read a TOML file or the preset of that name.

        assignments  "train.epochs=5" and the like, applied last
        scale        "small" applies the configuration's [small]

        Raises ConfigError or UnknownNameError for whatever is wrong with it.
        """
        raw, folder = read_toml(path, presets("xaibench.study"))
        return cls.from_dict(raw, folder, assignments, scale)

    @classmethod
    @checked
    def from_dict(
        cls, raw: dict[str, Any], folder: Path | str = ".", assignments: Sequence[str] = (), scale: str = "full"
    ) -> StudyConfig:
        """Nested dicts, as from TOML -> configuration; relative paths lie in `folder`. See `load`."""
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        raw = _normal(raw)
        small = raw.pop("small", None)
        if scale == "small":
            if not isinstance(small, dict):
                raise ConfigError("the configuration has no [small], which --scale small needs: add one, or leave it")
            small = _normal(small)
            _check_keys(small, "small.")
            raw = _merged(raw, small)
        keys = [key for key, _ in _flat({} if small is None or scale == "full" else small)]
        keys += [parse_assignment(assignment)[0] for assignment in assignments]
        raw = _assigned(raw, assignments)
        _check_keys(raw)
        own = {key: raw.pop(key) for key in _OWN if key in raw}
        about, claim, control = (_text(own, key) for key in ("about", "claim", "control"))
        axes = _axes(own.get("vary", {}))
        _check_not_varied(keys, axes)
        conditions = tuple(_conditions(raw, axes, Path(folder)))
        methods = conditions[0].config.methods
        claim, control = _one_of("claim", claim, methods), _one_of("control", control, methods)
        if claim and control:
            raise ConfigError(
                f"claim is '{claim}' and control '{control}': keep the claim, to be tested against all others, or "
                "the control, to hold all others against it"
            )
        levels = (tuple(name for name, _ in values) for values in axes.values())
        return cls(conditions, tuple(zip(_labels(list(axes)), levels)), about, claim, control)

    @property
    def subtasks(self) -> int:
        """How many subtasks each point of the grid has: the units that a claim about methods is tested on."""
        return len(dict(self.axes).get(SUBTASK, ("one",)))

    @property
    def methods(self) -> tuple[str, ...]:
        return self.conditions[0].config.methods

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.conditions[0].config.seeds

    @property
    def students(self) -> int:
        """How many students are trained."""
        return len(self.conditions) * len(self.methods) * len(self.seeds)


_Level = tuple[str, dict[str, Any]]  # the name of a value, and the keys of a run that it sets


def _axes(raw: Any) -> dict[str, list[_Level]]:
    """Axis -> its levels."""
    if not isinstance(raw, dict):
        raise ConfigError(f"vary must be a table of lists, got {raw!r}: write [vary] and a line for each axis")
    found: dict[str, list[_Level]] = {}
    for name, values in raw.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"vary.{name} must be a list of the values that {name} takes, got {values!r}")
        if not re.fullmatch(r"[\w.-]+", name) or name in _TAKEN:
            raise ConfigError(f"vary.{name!r} cannot be an axis' name: use letters, digits, - and _, and another word")
        levels = [_bundle(name, one) if isinstance(one, dict) else (_word(one), {name: one}) for one in values]
        names = [level for level, _ in levels]
        for key in (key for _, keys in levels for key in keys):
            if key in _SHARED:
                raise ConfigError(
                    f"vary.{name} sets {key}, but every run has all {key}: write {key} = [...] above [vary]"
                )
        twice = next((one for i, one in enumerate(names) if one in names[:i]), None)
        if twice is not None:
            raise ConfigError(f"vary.{name} has {twice!r} twice: keep each value once")
        found[name] = levels
    return found


def _bundle(axis: str, table: dict[str, Any]) -> _Level:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"each table of vary.{axis} needs a name = '...', got {table!r}")
    keys = {key: value for key, value in _flat(table) if key != "name"}
    if not keys:
        raise ConfigError(f"'{name}' of vary.{axis} changes nothing: give the keys of a run that it sets")
    return name, keys


def _conditions(base: dict[str, Any], axes: Mapping[str, list[_Level]], folder: Path) -> Iterator[Condition]:
    labels = _labels(list(axes))
    points = [
        (tuple((label, name) for label, (name, _) in zip(labels, point)), point) for point in product(*axes.values())
    ]
    shared = Counter(_file_name(named).lower() for named, _ in points)
    set_by: dict[str, str] = {}
    for axis, levels in axes.items():
        for key in {key for _, keys in levels for key in keys}:
            if set_by.setdefault(key, axis) != axis:
                raise ConfigError(f"{key} is set by both vary.{set_by[key]} and vary.{axis}: leave it to one of them")
    same: dict[RunConfig, str] = {}
    for named, point in points:
        raw = copy.deepcopy(base)
        for _, keys in point:
            for key, value in keys.items():
                _set(raw, key, value)
        text = _text_of(named)
        try:
            config = RunConfig.from_dict(raw, folder)
        except XaibenchError as error:
            raise type(error)(f"{text}: {error}" if text else str(error)) from None
        if same.setdefault(config, text) != text:
            raise ConfigError(f"{text} is the same run as {same[config]}: keep one of them")
        name = _file_name(named)
        alone = shared[name.lower()] == 1
        yield Condition(name if alone else f"{name}-{digest(text)[:6]}", named, config)


def _labels(axes: list[str]) -> list[str]:
    """The last part of each axis' key, where that tells them apart: "data.subtask" -> "subtask"."""
    short = [axis.rpartition(".")[2] for axis in axes]
    return [axis if short.count(one) > 1 or one in _TAKEN else one for axis, one in zip(axes, short)]


def _text_of(named: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{label}={name}" for label, name in named)


def _check_keys(raw: Mapping[str, Any], where: str = "") -> None:
    """Refuse what neither a run nor a study knows."""
    known = [
        *(field.name for field in dataclasses.fields(RunConfig)),
        *(key for key in _OWN if not where or key != "small"),
    ]
    for key in raw:
        if key not in known:
            raise unknown_name("key", f"{where}{key}", [f"{where}{one}" for one in known])


def _check_not_varied(keys: Sequence[str], axes: Mapping[str, list[_Level]]) -> None:
    """Refuse to set what the grid sets: it would have no effect."""
    for axis, levels in axes.items():
        for key in keys:
            if any(key in values for _, values in levels):
                raise ConfigError(f"{key} would have no effect, as the axis vary.{axis} sets it: change that")


def _file_name(levels: tuple[tuple[str, str], ...]) -> str:
    """The values in a row; what begins like a number says of what axis it is."""
    words = [level if level[:1].isalpha() else f"{axis}{level}" for axis, level in levels]
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-.") for word in words) or "run"
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{digest(levels)[:6]}"


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return " ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)


def _flat(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"vary.{key}: {section} is a value, not a table")
    raw[last] = value


def _normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which the axes are dotted keys, however they were written."""
    out = copy.deepcopy(dict(raw))
    if isinstance(out.get("vary"), dict):
        out["vary"] = dict(_flat(out["vary"]))
    return out


def _assigned(raw: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    own = {key: raw.pop(key) for key in _OWN if key in raw}
    for field in dataclasses.fields(RunConfig):  # sections that the configuration leaves at their defaults
        if dataclasses.is_dataclass(field.type) or str(field.type).endswith(("Config", "Recipe")):
            raw.setdefault(field.name, {})
    for assignment in assignments:
        key, value = parse_assignment(assignment)
        first, _, rest = key.partition(".")
        if first == "small":
            raise ConfigError(f"{key} cannot be set: add --scale small and set {rest or 'its keys'} itself")
        if first == "vary" and rest and isinstance(own.setdefault("vary", {}), dict):
            own["vary"][rest] = value
        elif key in _OWN:
            own[key] = value
        else:
            raw = with_assignments(raw, [assignment])
    return raw | own


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: tables are merged, everything else is replaced."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def _one_of(key: str, method: str, methods: Sequence[str]) -> str:
    """The name of a method that the study has; "" where none is given."""
    name = method_name(parse_method(method)) if method else ""
    if name and name not in methods:
        raise unknown_name(key, name, methods)
    return name


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"{key} must be text, got {value!r}")
    return " ".join(value.split())

"""The grid of a study: from axes and their values to the runs at its points.

An axis is a key of a run with its values, or tables of several keys that change together, each with a name.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from xaibench.errors import ConfigError, XaibenchError
from xaibench.run.config import RunConfig
from xaibench.run.ledger import digest

__all__ = ["SUBTASK", "Condition", "axes_of", "axis_labels", "check_not_varied", "conditions_of", "flat"]

SUBTASK = "subtask"
"""The axis whose values are the units that a claim about methods is tested on."""

_TAKEN = (
    *("run", "method", "seed", "accuracy", "agreement", "image", "explainer", "metric", "pairing", "value", "group"),
    *("images", "students", "done", "minutes"),
)
"""Columns of a study's tables: no axis is called so."""

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


Level = tuple[str, dict[str, Any]]  # the name of a value, and the keys of a run that it sets


def axes_of(raw: Any) -> dict[str, list[Level]]:
    """[vary] -> axis -> its levels."""
    if not isinstance(raw, dict):
        raise ConfigError(f"vary must be a table of lists, got {raw!r}: write [vary] and a line for each axis")
    found: dict[str, list[Level]] = {}
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


def _bundle(axis: str, table: dict[str, Any]) -> Level:
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"each table of vary.{axis} needs a name = '...', got {table!r}")
    keys = {key: value for key, value in flat(table) if key != "name"}
    if not keys:
        raise ConfigError(f"'{name}' of vary.{axis} changes nothing: give the keys of a run that it sets")
    return name, keys


def conditions_of(base: dict[str, Any], axes: Mapping[str, list[Level]], folder: Path) -> Iterator[Condition]:
    """The runs at all points of the grid, the last axis changing fastest: `base` with what each point sets."""
    labels = axis_labels(list(axes))
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


def axis_labels(axes: list[str]) -> list[str]:
    """The last part of each axis' key, where that tells them apart: "data.subtask" -> "subtask"."""
    short = [axis.rpartition(".")[2] for axis in axes]
    return [axis if short.count(one) > 1 or one in _TAKEN else one for axis, one in zip(axes, short)]


def _text_of(named: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{label}={name}" for label, name in named)


def check_not_varied(keys: Sequence[str], axes: Mapping[str, list[Level]]) -> None:
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


def flat(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables -> (dotted key, value)."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{where}{key}.")
        else:
            yield f"{where}{key}", value


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"vary.{key}: {section} is a value, not a table")
    raw[last] = value

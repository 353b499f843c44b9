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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xaibench.distillation.methods import method_name, parse_method
from xaibench.errors import ConfigError, unknown_name
from xaibench.run.config import RunConfig, parse_assignment, presets, read_toml, with_assignments
from xaibench.study.grid import SUBTASK, Condition, axes_of, axis_labels, check_not_varied, conditions_of, flat
from xaibench.validation import checked

__all__ = ["SCALES", "StudyConfig"]

SCALES = ("full", "small")

_OWN = ("about", "claim", "control", "vary", "small")


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
        keys = [key for key, _ in flat({} if small is None or scale == "full" else small)]
        keys += [parse_assignment(assignment)[0] for assignment in assignments]
        raw = _assigned(raw, assignments)
        _check_keys(raw)
        own = {key: raw.pop(key) for key in _OWN if key in raw}
        about, claim, control = (_text(own, key) for key in ("about", "claim", "control"))
        axes = axes_of(own.get("vary", {}))
        check_not_varied(keys, axes)
        conditions = tuple(conditions_of(raw, axes, Path(folder)))
        methods = conditions[0].config.methods
        claim, control = _one_of("claim", claim, methods), _one_of("control", control, methods)
        if claim and control:
            raise ConfigError(
                f"claim is '{claim}' and control '{control}': keep the claim, to be tested against all others, or "
                "the control, to hold all others against it"
            )
        levels = (tuple(name for name, _ in values) for values in axes.values())
        return cls(conditions, tuple(zip(axis_labels(list(axes)), levels)), about, claim, control)

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


def _check_keys(raw: Mapping[str, Any], where: str = "") -> None:
    """Refuse what neither a run nor a study knows."""
    known = [
        *(field.name for field in dataclasses.fields(RunConfig)),
        *(key for key in _OWN if not where or key != "small"),
    ]
    for key in raw:
        if key not in known:
            raise unknown_name("key", f"{where}{key}", [f"{where}{one}" for one in known])


def _normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which the axes are dotted keys, however they were written."""
    out = copy.deepcopy(dict(raw))
    if isinstance(out.get("vary"), dict):
        out["vary"] = dict(flat(out["vary"]))
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

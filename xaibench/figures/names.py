"""How methods, explainers and metrics are written for readers, and a file that says it otherwise."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xaibench.errors import ConfigError
from xaibench.similarity.metrics.table import METRICS

__all__ = ["METHOD_LABELS", "explainer_label", "label", "layer_label", "method_label", "metric_label", "read_names"]

METHOD_LABELS = {
    "student-only": "Student only",
    "label-smoothing": "Label smoothing",
    "siddo": "SIDDO",
    "disdo": "DISDO",
    "kd": "KD",
    "dkd": "DKD",
    "dist": "DIST",
    "sd-kd": "SD-KD",
    "sd-dkd": "SD-DKD",
    "sd-nkd": "SD-NKD",
    "icd": "iCD",
    "fitnet": "FitNet",
    "at": "AT",
    "vid": "VID",
    "spkd": "SPKD",
    "rkd": "RKD",
    "vkd": "VkD",
    "crd": "CRD",
    "semckd": "SemCKD",
    "reviewkd": "ReviewKD",
    "e2kd": "e2KD",
    "subdistill": "SubDistill",
    "random-control": "Random control",
    "untrained-teacher": "Untrained teacher",
    "influence": "Influence",
}
"""Method -> how the field writes it."""

_EXPLAINER_LABELS = {
    "lrp": "LRP",
    "ig": "integrated gradients",
    "input-x-gradient": "input × gradient",
    "smoothgrad": "SmoothGrad",
    "gradcam": "Grad-CAM",
    "shapley": "Shapley sampling",
    "occlusion": "occlusion",
}
_STUDENT = re.compile(r"(?P<method>.+)/(?:seed(?P<seed>\d+( \(\d+\))?)|mean)")
_WRAPPED = re.compile(r"(?P<name>[a-z0-9-]+)\[(?P<inner>.+)\](?P<rest>:[^\]]*)?")
_SUM = re.compile(r"\+(?=[a-z][a-z0-9-]*(?:[:+\[]|$))(?![^\[]*\])")


def method_label(name: str, names: Mapping[str, str] | None = None) -> str:
    """A method's or student's name as it is written in figures and tables; what is no method stays as it is.

    names  overrides, name -> what to write: of the whole name, or of the part before its options

    >>> method_label("subdistill:centring=mean"), method_label("kd/seed0"), method_label("teacher")
    ('SubDistill (centring=mean)', 'KD, seed 0', 'teacher')
    >>> method_label("kd/mean"), method_label("kd/seed0 (2)")
    ('KD, mean over seeds', 'KD, seed 0 (2)')
    >>> method_label("kd+at:kd_weight=0"), method_label("influence[kd]:refresh=3")
    ('KD + AT (kd_weight=0)', 'Influence [KD] (refresh=3)')
    >>> method_label("subdistill:centring=mean", {"subdistill": "Ours"})
    'Ours (centring=mean)'
    """
    names = names or {}
    if name in names:
        return names[name]
    if student := _STUDENT.fullmatch(name):
        of = "mean over seeds" if student["seed"] is None else f"seed {student['seed']}"
        return f"{method_label(student['method'], names)}, {of}"
    parts = _SUM.split(name)
    if len(parts) > 1 and all(_base(part) in METHOD_LABELS for part in parts):
        return " + ".join(method_label(part, names) for part in parts)
    if wrapped := _WRAPPED.fullmatch(name):
        outer = _labelled(wrapped["name"], METHOD_LABELS, names)
        return f"{outer} [{method_label(wrapped['inner'], names)}]{_options((wrapped['rest'] or '')[1:])}"
    base, _, options = name.partition(":")
    if base not in METHOD_LABELS and base not in names:
        return name
    return _labelled(base, METHOD_LABELS, names) + _options(options)


def explainer_label(name: str, names: Mapping[str, str] | None = None) -> str:
    """An explainer's name as it is written in figures ("lrp" -> "LRP"); options and overrides as in `method_label`."""
    names = names or {}
    if name in names:
        return names[name]
    base, _, options = name.partition(":")
    return _labelled(base, _EXPLAINER_LABELS, names) + _options(options)


def metric_label(name: str, names: Mapping[str, str] | None = None) -> str:
    """A metric's name as it is written in figures and tables ("topk_iou" -> "top-10% IoU")."""
    if names and name in names:
        return names[name]
    return METRICS[name].label if name in METRICS else name.replace("_", " ")


def label(name: str, names: Mapping[str, str] | None = None) -> str:
    """What `names` says for a class, a layer or anything else that has no label of its own."""
    return (names or {}).get(name, name)


def layer_label(pair: str, names: Mapping[str, str] | None = None) -> str:
    """A layer pair "teacher:student" as it is written in figures: one name where both are the same."""
    teacher, _, student = pair.partition(":")
    if names and pair in names:
        return names[pair]
    teacher, student = label(teacher, names), label(student, names)
    return teacher if student in ("", teacher) else f"{teacher}:{student}"


def read_names(path: Path | str) -> dict[str, str]:
    """A TOML or JSON file of overrides, name -> what to write: one table of texts.

    Raises ConfigError for a file that is missing, neither of the two, or holds anything but texts.
    """
    path = Path(path)
    if path.suffix not in (".toml", ".json"):
        raise ConfigError(f"names are read from a .toml or .json file, got {path}")
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the names in {path} ({_reason(error)}): give an existing file") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {path.suffix[1:].upper()}: {_reason(error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f'{path} must hold one table of names, as in {{"kd": "Hinton et al."}}, got a {_kind(found)}')
    for name, shown in found.items():
        if not isinstance(shown, str) or not shown.strip():
            raise ConfigError(f"{path}: '{name}' must be a text that is not empty, got {_kind(shown)} {shown!r}")
    return found


def _labelled(base: str, labels: Mapping[str, str], names: Mapping[str, str]) -> str:
    return names.get(base, labels.get(base, base))


def _options(text: str) -> str:
    return f" ({', '.join(part.strip() for part in text.split(','))})" if text else ""


def _base(part: str) -> str:
    return re.split(r"[:\[]", part, maxsplit=1)[0]


def _kind(value: object) -> str:
    return next(
        (word for kind, word in ((dict, "table"), (list, "list"), (str, "text")) if isinstance(value, kind)),
        type(value).__name__,
    )


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).split("\n")[0]

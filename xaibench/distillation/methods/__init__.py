"""The distillation methods, as frozen dataclasses whose repr is their provenance, and the table of their names."""

from __future__ import annotations

import re

from xaibench.distillation.methods.base import Combined, Method
from xaibench.distillation.methods.controls import (
    DISDO,
    SIDDO,
    LabelSmoothing,
    RandomControl,
    StudentOnly,
    UntrainedTeacher,
)
from xaibench.distillation.methods.dist import DIST
from xaibench.distillation.methods.feature import AT, CRD, E2KD, SPKD, VID, FitNet, SemCKD, VkD
from xaibench.distillation.methods.influence import InfluenceWeighted
from xaibench.distillation.methods.local import ICD, SDDKD, SDKD, SDNKD
from xaibench.distillation.methods.logit import DKD, KD
from xaibench.distillation.methods.reviewkd import ReviewKD
from xaibench.distillation.methods.rkd import RKD
from xaibench.distillation.methods.subdistill import SubDistill
from xaibench.distillation.methods.wrapped import Wrapped
from xaibench.errors import ConfigError
from xaibench.options import format_options, parse_options
from xaibench.validation import checked

__all__ = [
    "AT",
    "CONTROLS",
    "CRD",
    "DISDO",
    "DIST",
    "DKD",
    "E2KD",
    "ICD",
    "KD",
    "METHODS",
    "RKD",
    "SDDKD",
    "SDKD",
    "SDNKD",
    "SIDDO",
    "SPKD",
    "VID",
    "Combined",
    "FitNet",
    "InfluenceWeighted",
    "LabelSmoothing",
    "Method",
    "RandomControl",
    "ReviewKD",
    "SemCKD",
    "StudentOnly",
    "SubDistill",
    "UntrainedTeacher",
    "VkD",
    "method_name",
    "parse_method",
]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        StudentOnly,
        LabelSmoothing,
        SIDDO,
        DISDO,
        KD,
        DKD,
        DIST,
        SDKD,
        SDDKD,
        SDNKD,
        ICD,
        FitNet,
        AT,
        VID,
        SPKD,
        RKD,
        VkD,
        CRD,
        SemCKD,
        ReviewKD,
        E2KD,
        SubDistill,
        RandomControl,
        UntrainedTeacher,
        InfluenceWeighted,
    )
}

CONTROLS = tuple(method.name for method in (StudentOnly, LabelSmoothing, SIDDO, DISDO, RandomControl, UntrainedTeacher))
"""Names of what distillations are compared with: no teacher, or one that knows nothing."""

_MOST_WRAPPED = 10
_WRAPPED = re.compile(r"(?P<name>[\w-]+)\s*\[(?P<inner>.*)\]\s*(?P<rest>:.*)?$", re.DOTALL)
_NEXT = re.compile(rf"\s*(?:{'|'.join(map(re.escape, sorted(METHODS, key=len, reverse=True)))})\s*(?:$|[:+\[])")


@checked
def parse_method(text: str) -> Method:
    """Return the method that `text` names.

    "kd", "subdistill:centring=mean,layer_weight=50"; a sum "kd+fitnet:kd_weight=0"; a wrapped one
    "influence[kd:temperature=2]:refresh=3".
    """
    parts = _split(text)
    if len(parts) > 1:
        return Combined(tuple(parse_method(part) for part in parts))
    wrapped = _WRAPPED.match(text.strip())
    if not wrapped:
        method: Method = parse_options(text, METHODS, "method")
        return method
    name = wrapped["name"]
    if name in METHODS and not issubclass(METHODS[name], Wrapped):
        known = ", ".join(n for n, m in METHODS.items() if issubclass(m, Wrapped))
        raise ConfigError(f"method '{name}' wraps no other: write '{name}', or wrap with one of {known}")
    given = {"method": parse_method(wrapped["inner"])}
    method = parse_options(f"{name}{wrapped['rest'] or ''}", METHODS, "method", given)
    return method


@checked
def method_name(method: Method) -> str:
    """The shortest text that `parse_method` turns into `method`."""
    if isinstance(method, Combined):
        return "+".join(map(method_name, method.methods))
    if isinstance(method, Wrapped):
        name, colon, rest = format_options(method, without=("method",)).partition(":")
        return f"{name}[{method_name(method.method)}]{colon}{rest}"
    return format_options(method)


def _split(text: str) -> list[str]:
    """Cut at each "+" outside brackets that a method's name follows: others belong to an option's value."""
    parts, depth, deepest, start = [], 0, 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "+" and depth == 0 and _NEXT.match(text, i + 1):
            parts.append(text[start:i])
            start = i + 1
        deepest = max(deepest, depth)
    if depth:
        raise ConfigError(f"method '{text}': the brackets do not match")
    if deepest > _MOST_WRAPPED:
        raise ConfigError(f"a method can wrap another {_MOST_WRAPPED} deep at most, got {deepest}")
    return [*parts, text[start:]]

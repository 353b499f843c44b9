"""The explainers by name."""

from __future__ import annotations

from typing import Any

from xaibench.attribution.base import Explainer
from xaibench.attribution.gradients import IntegratedGradients
from xaibench.attribution.lrp import LRP
from xaibench.options import parse_options

__all__ = ["EXPLAINERS", "parse_explainer"]

EXPLAINERS: dict[str, type[Any]] = {
    "ig": IntegratedGradients,
    "lrp": LRP,
}


def parse_explainer(text: str) -> Explainer:
    """An explainer from its name and options.

    >>> parse_explainer("ig:steps=20")
    IntegratedGradients(steps=20, max_steps=400, baseline='black', internal_batch=64)
    """
    explainer: Explainer = parse_options(text, EXPLAINERS, "explainer")
    return explainer

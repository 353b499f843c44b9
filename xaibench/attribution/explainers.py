"""The explainers by name."""

from __future__ import annotations

from typing import Any

from xaibench.attribution.base import Explainer
from xaibench.attribution.gradcam import GradCAM
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.patches import Occlusion, ShapleySampling
from xaibench.attribution.smoothgrad import SmoothGrad
from xaibench.errors import ConfigError
from xaibench.options import parse_options

__all__ = ["EXPLAINERS", "as_explainer", "parse_explainer"]

EXPLAINERS: dict[str, type[Any]] = {
    "lrp": LRP,
    "ig": IntegratedGradients,
    "input-x-gradient": InputXGradient,
    "smoothgrad": SmoothGrad,
    "gradcam": GradCAM,
    "shapley": ShapleySampling,
    "occlusion": Occlusion,
}


def parse_explainer(text: str) -> Explainer:
    """An explainer from its name and options.

    >>> parse_explainer("ig:steps=20")
    IntegratedGradients(tolerance=0.02, budget=257, steps=20, baseline='black', seed=0)
    >>> parse_explainer("shapley:patch=4,samples=25")
    ShapleySampling(patch=4, samples=25, baseline='black', seed=0)
    """
    explainer: Explainer = parse_options(text, EXPLAINERS, "explainer")
    return explainer


def as_explainer(given: Explainer | str) -> Explainer:
    """An explainer as it is, or from its name and options; ConfigError for anything else."""
    if isinstance(given, str):
        return parse_explainer(given)
    if isinstance(given, type) or not hasattr(given, "attribute"):
        got = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise ConfigError(f"an explainer is an object such as LRP() or a text such as 'lrp:gamma=0.5', got {got}")
    return given

"""The explainers by name."""

from __future__ import annotations

from typing import Any

from xaibench.attribution.base import Explainer
from xaibench.attribution.gradcam import GradCAM
from xaibench.attribution.gradients import InputXGradient, IntegratedGradients
from xaibench.attribution.lrp import LRP
from xaibench.attribution.patches import Occlusion, ShapleySampling
from xaibench.attribution.smoothgrad import SmoothGrad
from xaibench.options import parse_options

__all__ = ["EXPLAINERS", "parse_explainer"]

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
    IntegratedGradients(steps=20, max_steps=400, baseline='black', seed=0)
    >>> parse_explainer("shapley:patch=4,samples=25")
    ShapleySampling(patch=4, samples=25, baseline='black', seed=0)
    """
    explainer: Explainer = parse_options(text, EXPLAINERS, "explainer")
    return explainer

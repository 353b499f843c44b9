"""Explanations that share out f(x) - f(baseline): what they owe, and how far off they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.attribution.base import logits_of
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.targets import Target

__all__ = ["explained_difference", "judge_residual", "residual_of"]

INCOMPLETE_SHARE = 0.5


def explained_difference(model: nn.Module, x: Tensor, baselines: Tensor, target: Target, points: int) -> Tensor:
    """f(x) - mean_s f(b_s) with f = z_y - z_r: (N,) float64 on the CPU.

    x          (N, C, H, W)
    baselines  (S, 1 or N, C, H, W)
    points     inputs in one forward pass
    """

    def explained(inputs: Tensor) -> Tensor:
        logits = torch.cat([logits_of(model, part) for part in inputs.split(points)]).cpu().double()
        return target.select(logits.expand(len(target), -1))

    return explained(x) - torch.stack([explained(baseline) for baseline in baselines]).mean(dim=0)


def residual_of(relevance: Tensor, wanted: Tensor) -> Tensor:
    """|sum relevance - wanted| / |wanted|: (N,) float64 on the CPU, of relevance (N, ...) and wanted (N,)."""
    total = relevance.flatten(1).cpu().double().sum(dim=1)
    return (total - wanted).abs() / wanted.abs()


def judge_residual(residual: Tensor | None, tolerance: float, note: str) -> tuple[tuple[Check, ...], tuple[int, ...]]:
    """At most half of the images may be off by more than `tolerance`; those get flagged and no score.

    residual  (N,) from `residual_of`; a NaN counts as off. None: there is nothing to judge
    note      what an image is that is off, and the remedy; "2 of 5 " is put in front
    """
    if residual is None:
        return (), ()
    flagged = tuple(int(i) for i in (~(residual <= tolerance)).nonzero().flatten())
    n = len(residual)
    share = len(flagged) / n
    return (at_most("share of incomplete images", share, INCOMPLETE_SHARE, f"{len(flagged)} of {n} {note}"),), flagged

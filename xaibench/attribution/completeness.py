"""Explanations that share out f(x) - f(baseline): what they owe, and how far off they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.attribution.base import logits_of
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.targets import Target

__all__ = ["explained_difference", "judge_images", "residual_of", "rounding_of"]

INCOMPLETE_SHARE = 0.5
_ROUNDING = 8  # in units of the last place of the largest logit


def explained_difference(
    model: nn.Module, x: Tensor, baselines: Tensor, target: Target, points: int
) -> tuple[Tensor, Tensor]:
    """f(x) - mean_s f(b_s) with f = z_y - z_r, and its rounding (see `rounding_of`): (N,) float64 on the CPU, both.

    x          (N, C, H, W)
    baselines  (S, 1 or N, C, H, W)
    points     inputs in one forward pass
    """

    def logits(inputs: Tensor) -> Tensor:
        return torch.cat([logits_of(model, part) for part in inputs.split(points)]).cpu()

    def explained(logits: Tensor) -> Tensor:
        return target.select(logits.double().expand(len(target), -1))

    at_x = logits(x)
    ends = torch.stack([explained(logits(baseline)) for baseline in baselines])
    return explained(at_x) - ends.mean(dim=0), rounding_of(at_x)


def rounding_of(logits: Tensor) -> Tensor:
    """What differences of the logits (N, K) may owe to their rounding: (N,) float64 on the CPU."""
    return _ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1).cpu().double()


def residual_of(relevance: Tensor, owed: Tensor, rounding: Tensor) -> Tensor:
    """|sum relevance - owed| / sum |heatmap|: (N,) float64 on the CPU.

    relevance  (N, C, H, W); the heatmap is its sum over the channels
    owed       (N,) float64: what the map should sum to
    rounding   (N,) float64: what is too little to count of the difference, see `rounding_of`

    At most the map's relative L1 error: no map that sums to `owed` is nearer. 0 for an all-zero map that owes nothing.
    """
    heatmaps = relevance.sum(dim=1).flatten(1).cpu().double()
    defect = (heatmaps.sum(dim=1) - owed).abs()
    return torch.where(defect <= rounding, 0.0, defect / heatmaps.abs().sum(dim=1))


def judge_images(off: Tensor, what: str, remedy: str) -> tuple[tuple[Check, ...], tuple[int, ...]]:
    """At most half of the images may be off (bool (N,)); those get flagged and no score.

    what    describes an image that is off; "2 of 5 " is put in front
    remedy  what may help, said where there is one
    """
    flagged = tuple(int(i) for i in off.nonzero().flatten())
    n = len(off)
    note = f"{len(flagged)} of {n} {what}" + (f": {remedy}" if flagged else "")
    return (at_most("share of incomplete images", len(flagged) / n, INCOMPLETE_SHARE, note),), flagged

"""All scores of two heatmaps by name, each with its range, its chance level and its label."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from xaibench.errors import ConfigError, unknown_name
from xaibench.similarity.maps import SIGNS, Array, default_grid, pool, with_sign
from xaibench.similarity.metrics import chance
from xaibench.similarity.metrics.agreement import (
    feature_agreement,
    rank_agreement,
    sign_agreement,
    signed_rank_agreement,
    top_cells,
    topk_iou,
    topk_overlap,
    topk_sign_agreement,
)
from xaibench.similarity.metrics.correlation import cosine, pearson, spearman
from xaibench.similarity.metrics.ranks import kendall, pairwise_rank_agreement, rank_biased_overlap
from xaibench.similarity.metrics.structure import ssim, ssim_window
from xaibench.similarity.metrics.transport import transport_negative, transport_positive
from xaibench.validation import checked

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "SIGNS",
    "Metric",
    "cosine",
    "default_grid",
    "feature_agreement",
    "kendall",
    "main_metric",
    "pairwise_rank_agreement",
    "pearson",
    "pool",
    "rank_agreement",
    "rank_biased_overlap",
    "sign_agreement",
    "signed_rank_agreement",
    "spearman",
    "ssim",
    "ssim_window",
    "top_cells",
    "topk_iou",
    "topk_overlap",
    "topk_sign_agreement",
    "transport_negative",
    "transport_positive",
    "with_sign",
]

Chance = Callable[[int, str], tuple[float, float]]


@dataclass(frozen=True)
class Metric:
    """A score of two maps.

    function  (a, b), both (N, H, W) -> (N,) float64, NaN where undefined
    range     least and greatest value; the greatest, 1, is identity
    by_chance (grid, sign) -> mean and SD over random maps of grid x grid cells
    label     for tables
    """

    name: str
    function: Callable[[Any, Any], Array]
    range: tuple[float, float]
    by_chance: Chance
    label: str

    def __call__(self, a: Any, b: Any) -> Array:
        return self.function(a, b)

    @checked
    def chance(self, grid: int, sign: str = "signed") -> tuple[float, float]:
        """Mean and SD of the score over pairs of random maps (normal cells) for this grid and sign mode.

        NaN where the score is undefined for such maps.
        """
        if sign not in SIGNS:
            raise unknown_name("sign mode", sign, SIGNS)
        if grid < 1:
            raise ConfigError(f"a grid has at least 1 cell a side, got {grid}")
        return self.by_chance(grid, sign)


def _simulated(function: Callable[[Any, Any], Array], full: int = 14) -> Chance:
    return lambda grid, sign: chance.simulated_chance(function, grid, sign, full)


def _top(formula: Callable[[int, int], tuple[float, float]]) -> Chance:
    return lambda grid, sign: formula(grid * grid, top_cells(grid * grid))


def _top_signs(formula: Callable[..., tuple[float, float]]) -> Chance:
    return lambda grid, sign: formula(grid * grid, top_cells(grid * grid), 0.5 if sign == "signed" else 1.0)


def _untied(formula: Chance, function: Callable[[Any, Any], Array]) -> Chance:
    # The formula knows no ties: half of the cells of positive maps are tied at 0.
    ties = _simulated(function)
    return lambda grid, sign: (ties if sign == "positive" else formula)(grid, sign)


_ONE, _BOTH = (0, 1), (-1, 1)
_METRICS = (
    Metric("cosine", cosine, _BOTH, lambda g, s: chance.cosine_chance(g * g, s), "cosine"),
    Metric("pearson", pearson, _BOTH, lambda g, s: chance.correlation_chance(g * g), "Pearson"),
    Metric("spearman", spearman, _BOTH, lambda g, s: chance.correlation_chance(g * g), "Spearman"),
    Metric("kendall", kendall, _BOTH, lambda g, s: chance.kendall_chance(g * g, s), "Kendall"),
    Metric("ssim", ssim, _BOTH, _simulated(ssim), "SSIM"),
    Metric("topk_iou", topk_iou, _ONE, _top(chance.iou_chance), "top-10% IoU"),
    Metric("topk_overlap", topk_overlap, _ONE, _top(chance.overlap_chance), "top-10% overlap"),
    Metric(
        "sign_agreement",
        sign_agreement,
        _ONE,
        _untied(lambda g, s: chance.sign_chance(g * g, s), sign_agreement),
        "sign agreement",
    ),
    Metric("feature_agreement", feature_agreement, _ONE, _top(chance.overlap_chance), "feature agreement"),
    Metric("topk_sign_agreement", topk_sign_agreement, _ONE, _top_signs(chance.overlap_chance), "top-10% signs"),
    Metric("rank_agreement", rank_agreement, _ONE, _top(chance.rank_chance), "rank agreement"),
    Metric("signed_rank_agreement", signed_rank_agreement, _ONE, _top_signs(chance.rank_chance), "signed ranks"),
    Metric(
        "pairwise_rank_agreement",
        pairwise_rank_agreement,
        _ONE,
        _untied(lambda g, s: chance.pairwise_chance(g * g), pairwise_rank_agreement),
        "pairwise ranks",
    ),
    Metric(
        "rank_biased_overlap",
        rank_biased_overlap,
        _ONE,
        _untied(lambda g, s: chance.rank_biased_chance(g * g), rank_biased_overlap),
        "rank-biased overlap",
    ),
    Metric("transport_positive", transport_positive, _ONE, _simulated(transport_positive, 9), "1 - EMD, positive"),
    Metric("transport_negative", transport_negative, _ONE, _simulated(transport_negative, 9), "1 - EMD, negative"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""All metrics, by name."""

DEFAULT_METRICS = ("cosine", "pearson", "spearman", "topk_iou")
"""What is scored where no metrics are named: of the common ones those that least take randomly initialised students for
like the teacher on the data that they were tried on (docs/results.md)."""


def main_metric(metrics: Iterable[str]) -> str:
    """The one metric that sorts and headlines: the cosine, or the first one where it is not among them."""
    names = list(metrics)
    return "cosine" if "cosine" in names else names[0]

"""Scores of two heatmaps: pool to a coarse grid, choose the sign mode, compare cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import rankdata
from skimage.metrics import structural_similarity
from torch.nn.functional import adaptive_avg_pool2d

from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.similarity.chance import correlation_chance, cosine_chance, overlap_chance, sign_chance

__all__ = [
    "METRICS",
    "SIGNS",
    "Metric",
    "cosine",
    "default_grid",
    "pearson",
    "pool",
    "sign_agreement",
    "spearman",
    "ssim",
    "ssim_window",
    "top_cells",
    "topk_iou",
    "with_sign",
]

Array = npt.NDArray[np.float64]

SIGNS = {"signed": "as they are", "absolute": "magnitudes |r|", "positive": "positive part max(r, 0)"}
"""Sign modes -> what is compared. They are applied to the pooled maps."""

_FLAT = 1e-12  # a map whose cells differ by less than this share of max|.| is constant


def default_grid(height: int, width: int) -> int:
    """Cells a side for images of this size: min(14, shorter side // 4), at least 2: 28 -> 7, 32 -> 8, 224 -> 14."""
    side = min(height, width)
    return min(side, max(2, min(14, side // 4)))


def pool(maps: Any, grid: int | None = None) -> Array:
    """Average-pool maps (N, H, W) to (N, grid, grid) in float64.

    Where grid does not divide a side, neighbouring windows overlap (torch's adaptive average pooling).
    grid=None takes `default_grid`. Raises DataError for a wrong shape, ConfigError for a grid outside 1..min(H, W).
    """
    values = _maps(maps)
    height, width = values.shape[1:]
    if grid is None:
        grid = default_grid(height, width)
    if not 1 <= grid <= min(height, width):
        raise ConfigError(f"grid {grid} does not fit {height}x{width} heatmaps: choose 1 to {min(height, width)}")
    return np.asarray(adaptive_avg_pool2d(torch.from_numpy(values)[:, None], grid)[:, 0].numpy())


def with_sign(maps: Any, sign: str) -> Array:
    """Apply a sign mode to maps of any shape: "signed" r, "absolute" |r|, "positive" max(r, 0)."""
    values = _array(maps)
    if sign not in SIGNS:
        raise unknown_name("sign mode", sign, SIGNS)
    if sign == "signed":
        return values
    return np.abs(values) if sign == "absolute" else np.maximum(values, 0.0)


def cosine(a: Any, b: Any) -> Array:
    """a.b / (|a| |b|) per image, in [-1, 1]. Maps (N, H, W) -> (N,); NaN where a map is all zero or not finite."""
    x, y, valid = _pairs(a, b)
    return _where(valid, _cosine(x, y))


def pearson(a: Any, b: Any) -> Array:
    """Correlation of the cells, in [-1, 1]. (N, H, W) -> (N,); NaN where a map is constant or not finite."""
    x, y, valid = _pairs(a, b)
    centred = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    return _where(valid & _varies(x) & _varies(y), _cosine(*centred))


def spearman(a: Any, b: Any) -> Array:
    """Pearson correlation of the ranks, average ranks for ties, in [-1, 1]. (N, H, W) -> (N,); NaN as for `pearson`."""
    x, y, valid = _pairs(a, b)
    middle = (x.shape[1] + 1) / 2
    return _where(valid & _varies(x) & _varies(y), _cosine(*(rankdata(v, axis=1) - middle for v in (x, y))))


def ssim_window(height: int, width: int) -> int:
    """Side of the SSIM window: 7 (scikit-image's default), or the largest odd number that fits a smaller map."""
    side = min(7, height, width)
    return side - 1 + side % 2


def ssim(a: Any, b: Any) -> Array:
    """Mean structural similarity in 2-D (scikit-image), each map divided by its max|.|, data range 2; in [-1, 1].

    Uniform window of `ssim_window`, sample covariance. (N, H, W) -> (N,); NaN where a map is all zero or not finite,
    and for maps under 3x3, which hold no window. Source: Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    """
    x, y, valid = _pairs(a, b)
    height, width = _maps(a).shape[1:]
    window = ssim_window(height, width)
    scores = np.full(len(x), np.nan)
    if window >= 3:
        for i in np.flatnonzero(valid):
            one, two = x[i].reshape(height, width), y[i].reshape(height, width)
            scores[i] = structural_similarity(one, two, data_range=2.0, win_size=window)
    return scores


def top_cells(n: int, share: float = 0.1) -> int:
    """How many of n cells count as the top: k = max(1, round(share n))."""
    return max(1, round(share * n))


def topk_iou(a: Any, b: Any, share: float = 0.1) -> Array:
    """Intersection over union of each map's k = max(1, round(share n)) largest cells, in [0, 1]. (N, H, W) -> (N,).

    Largest by value: of signed maps the most positive cells, of absolute ones the strongest. Cells tied at the k-th
    place share the places left evenly: with memberships w in [0, 1] that sum to k, IoU = sum min(w, v) / sum max(w, v),
    which without ties is the plain IoU, and never depends on the order of the cells. NaN where a map is constant or
    not finite.
    """
    x, y, valid = _pairs(a, b)
    k = top_cells(x.shape[1], share)
    w, v = _membership(x, k), _membership(y, k)
    iou = np.minimum(w, v).sum(axis=1) / np.maximum(w, v).sum(axis=1)
    return _where(valid & _varies(x) & _varies(y), iou)


def sign_agreement(a: Any, b: Any) -> Array:
    """Share of cells whose sign (-1, 0 or 1) is equal, in [0, 1]. (N, H, W) -> (N,).

    Zero is a sign of its own: it agrees with zero only. NaN where a map is all zero or not finite.
    """
    x, y, valid = _pairs(a, b)
    return _where(valid, (np.sign(x) == np.sign(y)).mean(axis=1))


@dataclass(frozen=True)
class Metric:
    """A score of two maps.

    function  (a, b), both (N, H, W) -> (N,) float64, NaN where undefined
    range     least and greatest value; 1 is identity
    by_chance (grid, sign) -> mean and SD over random maps of grid x grid cells
    label     for tables
    """

    name: str
    function: Callable[[Any, Any], Array]
    range: tuple[float, float]
    by_chance: Callable[[int, str], tuple[float, float]]
    label: str

    def __call__(self, a: Any, b: Any) -> Array:
        return self.function(a, b)

    def chance(self, grid: int, sign: str = "signed") -> tuple[float, float]:
        """Mean and SD of the score over pairs of random maps (normal cells) for this grid and sign mode."""
        if sign not in SIGNS:
            raise unknown_name("sign mode", sign, SIGNS)
        return self.by_chance(grid, sign)


@lru_cache
def _ssim_chance(grid: int, sign: str, pairs: int = 1000) -> tuple[float, float]:
    # No closed form: simulated with a fixed seed.
    a, b = with_sign(np.random.default_rng(0).standard_normal((2, pairs, grid, grid)), sign)
    scores = ssim(a, b)
    scores = scores[np.isfinite(scores)]
    return (float(scores.mean()), float(scores.std(ddof=1))) if len(scores) > 1 else (float("nan"), float("nan"))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("cosine", cosine, (-1, 1), lambda g, s: cosine_chance(g * g, s), "cosine"),
        Metric("pearson", pearson, (-1, 1), lambda g, s: correlation_chance(g * g), "Pearson"),
        Metric("spearman", spearman, (-1, 1), lambda g, s: correlation_chance(g * g), "Spearman"),
        Metric("ssim", ssim, (-1, 1), _ssim_chance, "SSIM"),
        Metric("topk_iou", topk_iou, (0, 1), lambda g, s: overlap_chance(g * g, top_cells(g * g)), "top-10% IoU"),
        Metric("sign_agreement", sign_agreement, (0, 1), lambda g, s: sign_chance(g * g, s), "sign agreement"),
    )
}
"""All metrics, by name."""


def _array(values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _maps(maps: Any) -> Array:
    values = _array(maps)
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise DataError(f"heatmaps must have the shape (N, H, W), got {values.shape}: sum over the channels first")
    return values


def _pairs(a: Any, b: Any) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    # Both maps flattened and divided by max|.| (undefined ones zeroed), and which pairs are defined.
    x, y = _maps(a), _maps(b)
    if x.shape != y.shape:
        raise DataError(f"heatmaps of different shapes {x.shape} and {y.shape}: explain the same images at one size")
    (x, fine), (y, good) = (_scaled(v.reshape(len(v), v.shape[1] * v.shape[2])) for v in (x, y))
    return x, y, fine & good


def _scaled(x: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    peak = np.abs(x).max(axis=1, keepdims=True)
    defined = np.isfinite(peak) & (peak > 0)
    return np.where(defined, x, 0.0) / np.where(defined, peak, 1.0), defined[:, 0]


def _varies(x: Array) -> npt.NDArray[np.bool_]:
    return np.asarray(np.ptp(x, axis=1) > _FLAT)


def _cosine(x: Array, y: Array) -> Array:
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.clip((x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1.0), -1.0, 1.0)


def _membership(x: Array, k: int) -> Array:
    place = x.shape[1] - k
    threshold = np.partition(x, place, axis=1)[:, place, None]
    above, tied = x > threshold, x == threshold
    left = k - above.sum(axis=1, keepdims=True)
    return above + tied * (left / tied.sum(axis=1, keepdims=True))


def _where(valid: npt.NDArray[np.bool_], scores: Array) -> Array:
    return np.where(valid, scores, np.nan)

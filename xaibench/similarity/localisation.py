"""Where relevance lies: scores of heatmaps (N, H, W) against boolean masks (N, H, W) of what should (not) matter.

At the resolution of the pixels: nothing is pooled. There is no score, NaN, for a map that is all zero or not finite and
for a mask that is empty or full. What a map scores whose pixels stand in random order is `Localisation.chance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xaibench.errors import ConfigError, DataError, unknown_name

__all__ = [
    "LOCALISATIONS",
    "Localisation",
    "localisation_auc",
    "pointing_game",
    "relevance_mass",
    "topk_intersection",
]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_PARTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "positive": (lambda x: np.maximum(x, 0.0), lambda x: np.maximum(x, 0.0)),
    "absolute": (np.abs, np.abs),
    "net": (lambda x: x, np.abs),
}
"""Part of the relevance -> what is summed inside the mask, and what over the whole map."""


def relevance_mass(maps: Any, masks: Any, part: str = "positive") -> Array:
    """How much of the relevance R lies inside the mask. (N, H, W) -> (N,).

    part  "positive": sum_inside max(R, 0) / sum max(R, 0), in [0, 1]; NaN for a map without positive relevance, and
          large for one that has little, all of it inside. "absolute": sum_inside |R| / sum |R|, in [0, 1].
          "net": sum_inside R / sum |R|, in [-1, 1]: the inside speaks for (above 0) or against what is explained

    Source: relevance mass accuracy of Arras et al. 2022, arXiv 2003.07258.
    """
    if part not in _PARTS:
        raise unknown_name("part of the relevance", part, _PARTS)
    x, inside, valid = _pairs(maps, masks)
    peak = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(peak > 0, peak, 1.0)
    some, whole = _PARTS[part]
    total = whole(x).sum(axis=1)
    return _share((some(x) * inside).sum(axis=1), total, valid & (total > 0))


def pointing_game(maps: Any, masks: Any, tolerance: float = 0.0) -> Array:
    """1 where the largest value lies inside the mask, else 0. (N, H, W) -> (N,).

    tolerance  pixels: a maximum at this (Euclidean) distance from the mask, or nearer, is a hit too

    Of several equal maxima the share inside counts. NaN also for constant maps and where the widened mask is full.
    Source: Zhang et al. 2018, doi 10.1007/s11263-017-1059-x (tolerance 15 on photographs).
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must be at least 0 pixels, got {tolerance}")
    x, inside, valid = _pairs(maps, masks)
    if tolerance > 0:
        shape = np.shape(maps)
        from scipy.ndimage import distance_transform_edt  # slow to import

        near = [distance_transform_edt(~mask) <= tolerance for mask in inside.reshape(shape)]
        inside = np.reshape(near, inside.shape).astype(bool)
        valid = valid & ~inside.all(axis=1)
    largest = x == x.max(axis=1, keepdims=True)
    return _share((largest & inside).sum(axis=1), largest.sum(axis=1), valid & _varies(x))


def topk_intersection(maps: Any, masks: Any) -> Array:
    """Share of the k most relevant pixels that lie inside the mask of k pixels, in [0, 1]. (N, H, W) -> (N,).

    Most relevant by value, sign kept. Pixels tied at the k-th place share the places left evenly. NaN also for constant
    maps. Source: relevance rank accuracy of Arras et al. 2022, arXiv 2003.07258.
    """
    x, inside, valid = _pairs(maps, masks)
    n, k = x.shape[1], inside.sum(axis=1)
    kth = np.take_along_axis(np.sort(x, axis=1), np.clip(n - k, 0, n - 1)[:, None], axis=1)
    above, tied = x > kth, x == kth
    left = (k - above.sum(axis=1)) / tied.sum(axis=1).clip(1)
    hits = (above & inside).sum(axis=1) + left * (tied & inside).sum(axis=1)
    return _share(hits, k, valid & _varies(x))


def localisation_auc(maps: Any, masks: Any) -> Array:
    """Area under the ROC curve of "inside" by relevance: P(r_in > r_out) + P(r_in = r_out) / 2, in [0, 1].

    (N, H, W) -> (N,); by value, sign kept. NaN also for constant maps.
    """
    from scipy.stats import rankdata  # slow to import

    x, inside, valid = _pairs(maps, masks)
    n, k = x.shape[1], inside.sum(axis=1)
    ranks = rankdata(np.where(valid[:, None], x, 0.0), axis=1)
    above = (ranks * inside).sum(axis=1) - k * (k + 1) / 2
    return _share(above, k * (n - k), valid & _varies(x))


@dataclass(frozen=True)
class Localisation:
    """A score of a map against a mask.

    function   (maps, masks), both (N, H, W) -> (N,) float64, NaN where undefined
    by_chance  (maps flattened (N, H W), share of the pixels inside (N,)) -> expected score of maps in random order
    range      least and greatest value
    label      for figures and tables
    """

    name: str
    function: Callable[[Any, Any], Array]
    by_chance: Callable[[Array, Array], Array]
    label: str
    range: tuple[float, float] = (0, 1)

    def __call__(self, maps: Any, masks: Any) -> Array:
        return self.function(maps, masks)

    def chance(self, maps: Any, masks: Any) -> Array:
        """Expected score (N,) over all orders in which the pixels of each map could stand; NaN where undefined."""
        x, inside, valid = _pairs(maps, masks)
        return np.where(valid, self.by_chance(x, inside.mean(axis=1)), np.nan)


def _area(x: Array, area: Array) -> Array:
    return area


def _half(x: Array, area: Array) -> Array:
    return np.full_like(area, 0.5)


def _balance(x: Array, area: Array) -> Array:
    total = np.abs(x).sum(axis=1)
    return area * x.sum(axis=1) / np.where(total > 0, total, 1.0)


LOCALISATIONS: dict[str, Localisation] = {
    score.name: score
    for score in (
        Localisation("mass", relevance_mass, _area, "positive relevance inside"),
        Localisation("absolute_mass", lambda r, m: relevance_mass(r, m, "absolute"), _area, "|relevance| inside"),
        Localisation("net_mass", lambda r, m: relevance_mass(r, m, "net"), _balance, "net relevance inside", (-1, 1)),
        Localisation("pointing", pointing_game, _area, "pointing game"),
        Localisation("topk", topk_intersection, _area, "top-k inside"),
        Localisation("auc", localisation_auc, _half, "ROC AUC"),
    )
}
"""All localisation scores, by name."""


def _array(values: Any) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _masks(masks: Any) -> Bools:
    inside = _array(masks)
    if inside.dtype != np.bool_:
        raise DataError(f"masks must be boolean, got {inside.dtype}: compare them with a threshold first, as masks > 0")
    if inside.ndim != 3 or 0 in inside.shape[1:]:
        raise DataError(f"masks must have the shape (N, H, W), got {inside.shape}: give one an image")
    return inside


def _pairs(maps: Any, masks: Any) -> tuple[Array, Bools, Bools]:
    # Maps and masks flattened to (N, H W), and which pairs are defined; undefined maps are zeroed.
    values, inside = np.asarray(_array(maps), dtype=np.float64), _masks(masks)
    if values.ndim != 3:
        raise DataError(f"heatmaps must have the shape (N, H, W), got {values.shape}: sum over the channels first")
    if values.shape != inside.shape:
        raise DataError(
            f"heatmaps of shape {values.shape} but masks of shape {inside.shape}: give one mask an image, of its size"
        )
    flat = (len(values), values.shape[1] * values.shape[2])
    x, inside = values.reshape(flat), inside.reshape(flat)
    fine = np.isfinite(x).all(axis=1) & (x != 0).any(axis=1)
    return np.where(fine[:, None], x, 0.0), inside, fine & inside.any(axis=1) & ~inside.all(axis=1)


def _varies(x: Array) -> Bools:
    return np.asarray(x.max(axis=1) > x.min(axis=1))


def _share(part: npt.NDArray[Any], whole: npt.NDArray[Any], valid: Bools) -> Array:
    return np.where(valid, part / np.where(valid, whole, 1), np.nan)

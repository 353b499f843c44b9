"""Heatmaps as they are compared: pooled to a coarse grid, in a sign mode, flattened and scaled pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import adaptive_avg_pool2d

from xaibench.errors import ConfigError, DataError, unknown_name

__all__ = ["SIGNS", "Array", "default_grid", "map_size", "nonzero", "pool", "scored", "varies", "with_sign"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SIGNS = {"signed": "as they are", "absolute": "magnitudes |r|", "positive": "positive part max(r, 0)"}
"""Sign modes -> what is compared. They are applied to the pooled maps."""

_FLAT = 1e-12  # a map whose cells differ by less than this share of max|.| is constant
_CHUNK = 32_768  # cells scored at a time: what a processor's cache holds


def default_grid(height: int, width: int) -> int:
    """Cells a side for images of this size: min(14, shorter side // 4), at least 2: 28 -> 7, 32 -> 8, 224 -> 14."""
    side = min(height, width)
    return min(side, max(2, min(14, side // 4)))


def pool(maps: Any, grid: int | None = None) -> Array:
    """Average-pool maps (N, H, W) to (N, grid, grid) in float64.

    Where grid does not divide a side, neighbouring windows overlap (torch's adaptive average pooling). Means that are
    rounding noise, below 1e-12 of their window's mean magnitude, are 0. grid=None takes `default_grid`. Raises
    DataError for a wrong shape, ConfigError for a grid that is not a whole number in 1..min(H, W).
    """
    height, width = map_size(maps)
    if grid is None:
        grid = default_grid(height, width)
    if not isinstance(grid, int | np.integer) or not 1 <= grid <= min(height, width):
        raise ConfigError(f"grid {grid} does not fit {height}x{width} heatmaps: choose 1 to {min(height, width)}")
    values = torch.from_numpy(np.array(_numbers(maps), dtype=np.float64))
    pooled, size = (adaptive_avg_pool2d(v[:, None], int(grid))[:, 0] for v in (values, values.abs()))
    return np.asarray(torch.where(pooled.abs() < _FLAT * size, 0.0, pooled).numpy())


def with_sign(maps: Any, sign: str) -> Array:
    """Apply a sign mode to maps of any shape: "signed" r, "absolute" |r|, "positive" max(r, 0)."""
    values = _numbers(maps).astype(np.float64, copy=False)
    if sign not in SIGNS:
        raise unknown_name("sign mode", sign, SIGNS)
    if sign == "signed":
        return values
    return np.abs(values) if sign == "absolute" else np.maximum(values, 0.0)


def map_size(maps: Any) -> tuple[int, int]:
    """Height and width of maps (N, H, W). Raises DataError for any other shape."""
    shape = tuple(maps.shape) if hasattr(maps, "shape") else np.shape(maps)
    if len(shape) != 3 or 0 in shape[1:]:
        raise DataError(f"heatmaps must have the shape (N, H, W), got {shape}: sum over the channels first")
    return shape[1], shape[2]


def nonzero(x: Array) -> Mask:
    """Which maps (N, n) are not zero throughout."""
    return np.asarray(x.any(axis=1))


def varies(x: Array) -> Mask:
    """Which maps (N, n), scaled to max|.| 1, are not constant: their cells differ by more than 1e-12."""
    return np.asarray(np.ptp(x, axis=1) > _FLAT)


def scored(a: Any, b: Any, score: Callable[[Array, Array], Array], defined: Callable[[Array], Mask] = nonzero) -> Array:
    """Score maps (N, H, W) pair by pair -> (N,) float64; what every metric is made of.

    score    (x, y), maps (n, H * W) that were divided by their max|.|, all of them defined -> (n,)
    defined  x (n, H * W) -> which maps can be scored; one that is not finite comes here as zeros

    A pair of which either map is not defined scores NaN. Works through the images in chunks: memory does not grow with
    N, and no score depends on the other images. Raises DataError for maps that are not (N, H, W) or differ in shape.
    """
    x, y = _maps(a), _maps(b)
    if x.shape != y.shape:
        raise DataError(f"heatmaps of different shapes {x.shape} and {y.shape}: explain the same images at one size")
    scores = np.full(len(x), np.nan)
    step = max(1, _CHUNK // (x.shape[1] * x.shape[2]))
    for start in range(0, len(x), step):
        one, two = (_scaled(maps[start : start + step]) for maps in (x, y))
        rows = np.flatnonzero(defined(one) & defined(two))
        if len(rows):
            scores[start + rows] = score(one[rows], two[rows])
    return scores


def _maps(maps: Any) -> npt.NDArray[Any]:
    map_size(maps)
    return _numbers(maps)


def _numbers(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise DataError(f"heatmaps must hold real numbers, got {array.dtype}: sum the relevance over the channels")
    return array


def _scaled(maps: npt.NDArray[Any]) -> Array:
    x = maps.reshape(len(maps), -1).astype(np.float64)
    peak = np.abs(x).max(axis=1, keepdims=True)
    fine = np.isfinite(peak) & (peak > 0)
    return np.where(fine, x, 0.0) / np.where(fine, peak, 1.0)

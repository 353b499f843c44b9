"""Images as a grid of patches, and the orders in which a heatmap or chance visits them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.maps import default_grid
from xaibench.similarity.nulls import draws

__all__ = ["Order", "patch_of_pixels", "patch_order", "patch_side", "random_order"]

Order = npt.NDArray[np.int64]
"""(N, cells): each row names the cells of a grid, row by row from the top left, as they are visited; -1: undefined."""

_FLAT = 1e-12  # as for heatmaps: patches whose means differ by less than this share of max|.| are constant


def patch_side(height: int, width: int, grid: int | None = None) -> int:
    """Patches a side: `grid`, or `default_grid` for None. Raises ConfigError outside 1..min(H, W)."""
    side = default_grid(height, width) if grid is None else grid
    if not 1 <= side <= min(height, width):
        raise ConfigError(f"grid {side} does not fit {height}x{width} images: choose 1 to {min(height, width)}")
    return side


def patch_of_pixels(height: int, width: int, grid: int) -> Tensor:
    """(H, W) int64: pixel (i, j) lies in patch floor(i grid / H) * grid + floor(j grid / W)."""
    row, column = torch.arange(height) * grid // height, torch.arange(width) * grid // width
    return row[:, None] * grid + column


def patch_order(maps: Any, grid: int | None = None) -> Order:
    """Patches by falling relevance, which is the sum over a patch's pixels: maps (N, H, W) -> (N, grid^2).

    Ties go by position. A row of -1 stands where a map is constant or not finite: it has no order.
    grid=None takes `default_grid`. Raises DataError for a wrong shape, ConfigError for a grid outside 1..min(H, W).
    """
    values = maps.detach().cpu().numpy() if isinstance(maps, Tensor) else np.asarray(maps)
    if values.ndim != 3 or 0 in values.shape[1:]:
        raise DataError(f"heatmaps must have the shape (N, H, W), got {values.shape}: sum over the channels first")
    height, width = values.shape[1:]
    side = patch_side(height, width, grid)
    rows, columns = (-(-np.arange(side) * length // side) for length in (height, width))  # where patches begin
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, axis=1), columns, axis=2)
    area = np.outer(*(np.diff([*starts, length]) for starts, length in zip((rows, columns), (height, width))))
    sums, means = sums.reshape(len(sums), -1), (sums / area).reshape(len(sums), -1)
    finite = np.isfinite(sums).all(axis=1, keepdims=True)
    means = np.where(finite, means, 0.0)
    defined = np.ptp(means, axis=1, keepdims=True) > _FLAT * np.abs(means).max(axis=1, keepdims=True)
    return np.where(defined, np.argsort(-sums, axis=1, kind="stable"), -1).astype(np.int64)


def random_order(n: int, cells: int, seed: int = 0) -> Order:
    """A seeded permutation of the cells for each of n images, (n, cells): the null that orders are held against."""
    return draws(seed).permuted(np.tile(np.arange(cells), (n, 1)), axis=1)

"""Structural similarity of two maps, in 2-D."""

from __future__ import annotations

from typing import Any

import numpy as np

from xaibench.similarity.maps import Array, map_size, scored

__all__ = ["ssim", "ssim_window"]

_RANGE = 2.0  # of maps divided by their max|.|


def ssim_window(height: int, width: int) -> int:
    """Side of the SSIM window: 7 (scikit-image's default), or the largest odd number that fits a smaller map."""
    side = min(7, height, width)
    return side - 1 + side % 2


def ssim(a: Any, b: Any) -> Array:
    """Mean structural similarity in 2-D, each map divided by its max|.|, data range 2; in [-1, 1].

    Over all places of a uniform window of `ssim_window` the mean of
    (2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_aa + s_bb + c2)), m the means and s the sample covariances
    in the window, c1 = (0.01 * 2)^2, c2 = (0.03 * 2)^2: what scikit-image computes for one image at a time.
    (N, H, W) -> (N,); NaN where a map is all zero or not finite, and for maps under 3x3, which hold no window.
    Source: Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    """
    height, width = map_size(a)
    side = ssim_window(height, width)

    def score(x: Array, y: Array) -> Array:
        if side < 3:
            return np.full(len(x), np.nan)
        x, y = (v.reshape(-1, height, width) for v in (x, y))
        one, two = _window_means(x, side), _window_means(y, side)
        sample = side**2 / (side**2 - 1)
        both = sample * (_window_means(x * y, side) - one * two)
        spread = sample * (_window_means(x * x, side) - one * one), sample * (_window_means(y * y, side) - two * two)
        c1, c2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
        alike = (2 * one * two + c1) * (2 * both + c2)
        return np.mean(alike / ((one * one + two * two + c1) * (sum(spread) + c2)), axis=(1, 2))

    return scored(a, b, score)


def _window_means(x: Array, side: int) -> Array:
    # Of every window of side x side cells that lies inside the maps (N, H, W).
    for axis in (1, 2):
        places = x.shape[axis] - side + 1
        x = np.sum([np.take(x, range(start, start + places), axis) for start in range(side)], axis=0) / side
    return x

"""What a score is by chance alone: mean and SD over pairs of random maps, in closed form.

A random map has independent standard normal cells to which the sign mode is then applied. Undefined scores (a map
that is all zero after the sign mode) are left out, as they are in every mean.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln
from scipy.stats import binom, hypergeom

__all__ = ["correlation_chance", "cosine_chance", "overlap_chance", "sign_chance"]


def cosine_chance(n: int, sign: str) -> tuple[float, float]:
    """Cosine of two random maps of n cells.

    signed: mean 0, SD 1/sqrt(n). Otherwise, with u the map divided by its length, mean = n E[u_1]^2 and second moment
    = 1/n + n(n-1) E[u_1 u_2]^2; given m non-zero cells, u is uniform on the positive part of the unit sphere in m
    dimensions, where E[u_i] = Gamma(m/2) / (sqrt(pi) Gamma((m+1)/2)) and E[u_i u_j] = 2 / (pi m). m = n after abs(),
    and binomial(n, 1/2) without m = 0 after ReLU: 0.64 and 0.32 for many cells.
    """
    if sign == "signed":
        return 0.0, n**-0.5
    m = np.arange(1, n + 1)
    weight = (m == n).astype(float) if sign == "absolute" else binom.pmf(m, n, 0.5) / (1 - 0.5**n)
    one = np.exp(gammaln(m / 2) - gammaln((m + 1) / 2)) / np.sqrt(np.pi)
    mean = n * float(weight @ (m / n * one)) ** 2
    pairs = n * (n - 1) * float(weight @ (m * (m - 1) / max(1, n * (n - 1)) * 2 / (np.pi * m))) ** 2
    return mean, float(np.sqrt(max(0.0, 1 / n + pairs - mean**2)))


def correlation_chance(n: int) -> tuple[float, float]:
    """Pearson or Spearman correlation of two random maps: mean 0, SD 1/sqrt(n-1), whatever the cells' distribution.

    (Over the orders in which one map's cells can stand, these two moments are exact, ties included.)
    """
    return (0.0, (n - 1) ** -0.5) if n > 1 else (float("nan"), float("nan"))


def overlap_chance(n: int, k: int) -> tuple[float, float]:
    """IoU of two random sets of k among n cells: i / (2k - i), i hypergeometric(n, k, k)."""
    i = np.arange(k + 1)
    weight, iou = hypergeom.pmf(i, n, k, k), i / (2 * k - i)
    mean = float(weight @ iou)
    return mean, float(np.sqrt(max(0.0, weight @ iou**2 - mean**2)))


def sign_chance(n: int, sign: str) -> tuple[float, float]:
    """Share of n cells with equal sign: mean 1/2, SD 1/(2 sqrt(n)); always 1 after abs()."""
    return (1.0, 0.0) if sign == "absolute" else (0.5, 0.5 * n**-0.5)

"""What a score is by chance alone: mean and SD over pairs of random maps, in closed form where there is one.

A random map has independent standard normal cells to which the sign mode is then applied. Undefined scores (a map
that is all zero after the sign mode) are left out, as they are in every mean; where all are undefined, both are NaN.
In positive maps about half of the cells are tied at zero; formulas for the top cells leave out that these ties could
reach into the top 10%, which happens in less than 1 of 1000 maps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from xaibench.similarity.maps import Array, with_sign
from xaibench.similarity.metrics.ranks import overlap_weights

__all__ = [
    "correlation_chance",
    "cosine_chance",
    "iou_chance",
    "kendall_chance",
    "overlap_chance",
    "pairwise_chance",
    "rank_biased_chance",
    "rank_chance",
    "sign_chance",
    "simulated_chance",
]

_UNDEFINED = (float("nan"), float("nan"))


def cosine_chance(n: int, sign: str) -> tuple[float, float]:
    """Cosine of two random maps of n cells.

    signed: mean 0, SD 1/sqrt(n). Otherwise, with u the map divided by its length, mean = n E[u_1]^2 and second moment
    = 1/n + n(n-1) E[u_1 u_2]^2; given m non-zero cells, u is uniform on the positive part of the unit sphere in m
    dimensions, where E[u_i] = Gamma(m/2) / (sqrt(pi) Gamma((m+1)/2)) and E[u_i u_j] = 2 / (pi m). m = n after abs(),
    and binomial(n, 1/2) without m = 0 after ReLU: 0.64 and 0.32 for many cells.
    """
    if sign == "signed":
        return 0.0, n**-0.5
    from scipy.special import gammaln  # slow to import

    m = np.arange(1, n + 1)
    weight = (m == n).astype(float) if sign == "absolute" else _binomial(m, n)
    one = np.exp(gammaln(m / 2) - gammaln((m + 1) / 2)) / np.sqrt(np.pi)
    mean = n * float(weight @ (m / n * one)) ** 2
    pairs = n * (n - 1) * float(weight @ (m * (m - 1) / max(1, n * (n - 1)) * 2 / (np.pi * m))) ** 2
    return mean, float(np.sqrt(max(0.0, 1 / n + pairs - mean**2)))


def correlation_chance(n: int) -> tuple[float, float]:
    """Pearson or Spearman correlation of two random maps: mean 0, SD 1/sqrt(n-1), whatever the cells' distribution.

    (Over the orders in which one map's cells can stand, these two moments are exact, ties included.)
    """
    return (0.0, (n - 1) ** -0.5) if n > 1 else _UNDEFINED


def kendall_chance(n: int, sign: str = "signed") -> tuple[float, float]:
    """Kendall's tau-b of two random maps: mean 0, SD sqrt(2(2n + 5) / (9n(n - 1))) without ties.

    In positive maps t and u cells are tied at zero, binomial(n, 1/2) without n; given these, tau's variance is that of
    C - D over all orders, divided by (P - t(t-1)/2) (P - u(u-1)/2), P = n(n-1)/2. Source: Kendall, Rank correlation
    methods, chapter 5.
    """
    if n < 2:
        return _UNDEFINED
    t = np.arange(n if sign == "positive" else 1)
    weight = _binomial(t, n) if sign == "positive" else np.ones(1)
    pairs, triples, sums = t * (t - 1), t * (t - 1) * (t - 2), t * (t - 1) * (2 * t + 5)
    variance = (n * (n - 1) * (2 * n + 5) - np.add.outer(sums, sums)) / 18
    variance += np.multiply.outer(triples, triples) / (9 * n * (n - 1) * max(1, n - 2))
    variance += np.multiply.outer(pairs, pairs) / (2 * n * (n - 1))
    untied = (n * (n - 1) - pairs) / 2
    return 0.0, float(np.sqrt((weight / untied) @ variance @ (weight / untied)))


def pairwise_chance(n: int) -> tuple[float, float]:
    """Share of the pairs of cells in the same order, without ties: (1 + tau) / 2, hence mean 1/2 and half tau's SD."""
    return (0.5, kendall_chance(n)[1] / 2) if n > 1 else _UNDEFINED


def iou_chance(n: int, k: int) -> tuple[float, float]:
    """IoU of two random sets of k among n cells: i / (2k - i), i hypergeometric(n, k, k)."""
    if n < 2:
        return _UNDEFINED
    from scipy.stats import hypergeom  # slow to import

    i = np.arange(k + 1)
    weight, iou = hypergeom.pmf(i, n, k, k), i / (2 * k - i)
    mean = float(weight @ iou)
    return mean, float(np.sqrt(max(0.0, weight @ iou**2 - mean**2)))


def overlap_chance(n: int, k: int, kept: float = 1.0) -> tuple[float, float]:
    """Share of k cells that a random set of k among n cells holds too: mean k/n, hypergeometric(n, k, k) / k.

    kept  the probability with which a shared cell counts: 1/2 for signs that must agree by chance
    """
    return _counted(n, k, k * k, (k * (k - 1)) ** 2, kept)


def rank_chance(n: int, k: int, kept: float = 1.0) -> tuple[float, float]:
    """Share of the first k places on which the same cell stands in two random orders of n cells: mean 1/n.

    kept  the probability with which such a cell counts
    """
    return _counted(n, k, k, k * (k - 1), kept)


def rank_biased_chance(n: int, p: float = 0.9) -> tuple[float, float]:
    """Rank-biased overlap of two random orders of n cells, without ties.

    The overlaps A_d have the mean d/n, and for d <= e the product moment
    E[A_d A_e] = d / (e n) + d (e-1)^2 / (e n (n-1)).
    """
    if n < 2:
        return _UNDEFINED
    weights = overlap_weights(n, p)
    depths = np.arange(1.0, len(weights) + 1)
    d, e = np.minimum.outer(depths, depths), np.maximum.outer(depths, depths)
    moments = d / (e * n) * (1 + (e - 1) ** 2 / (n - 1))
    mean = float(weights @ depths) / n
    return mean, float(np.sqrt(max(0.0, weights @ moments @ weights - mean**2)))


def sign_chance(n: int, sign: str) -> tuple[float, float]:
    """Share of n cells with equal sign: mean 1/2, SD 1/(2 sqrt(n)); always 1 after abs(). Not for positive maps."""
    return (1.0, 0.0) if sign == "absolute" else (0.5, 0.5 * n**-0.5)


@lru_cache
def simulated_chance(
    function: Callable[[Any, Any], Array], grid: int, sign: str, full: int = 14
) -> tuple[float, float]:
    """Mean and SD of a metric without a formula, from random maps with a fixed seed; computed once.

    1000 pairs up to a grid of `full` cells a side; for larger maps fewer, by the square of the cells, but at least 30.
    """
    pairs = max(30, min(1000, 1000 * full**4 // grid**4))
    a, b = with_sign(np.random.default_rng(0).standard_normal((2, pairs, grid, grid)), sign)
    scores = function(a, b)
    scores = scores[np.isfinite(scores)]
    return (float(scores.mean()), float(scores.std(ddof=1))) if len(scores) > 1 else _UNDEFINED


def _counted(n: int, k: int, first: int, second: int, kept: float) -> tuple[float, float]:
    # X / k for a count X with E[X] = first / n and E[X] = second / (n (n-1)), each kept with this probability.
    if n < 2:
        return _UNDEFINED
    mean = kept * first / n
    variance = mean + kept**2 * second / (n * (n - 1)) - mean**2
    return mean / k, float(np.sqrt(max(0.0, variance))) / k


def _binomial(m: Any, n: int) -> Array:
    """Probability of m = 0 .. n of binomial(n, 1/2), given that one of its ends does not occur."""
    from scipy.stats import binom  # slow to import

    return binom.pmf(m, n, 0.5) / (1 - 0.5**n)

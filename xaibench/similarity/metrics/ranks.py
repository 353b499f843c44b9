"""Scores from the order of the cells: Kendall's tau, agreeing pairs, rank-biased overlap; places and their ties.

One rule for ties, here and in `agreement`: cells that are tied share the places that they stand on evenly, so no score
depends on the order in which cells are stored. (Kendall's tau-b has its own rule, in its denominator.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError
from xaibench.similarity.maps import Array, Mask, map_size, scored, varies

__all__ = [
    "common",
    "inversions",
    "kendall",
    "magnitudes_vary",
    "members",
    "overlap_weights",
    "pairwise_rank_agreement",
    "places",
    "rank_biased_overlap",
]

Counts = npt.NDArray[np.int64]


def kendall(a: Any, b: Any) -> Array:
    """Kendall's tau-b of the cells' values, in [-1, 1]. (N, H, W) -> (N,); NaN where a map is constant or not finite.

    (C - D) / sqrt((P - T_a) (P - T_b)): of all P pairs of cells C stand in the same and D in the opposite order, T_a
    and T_b are tied in a or b. Source: Kendall 1945, doi 10.1093/biomet/33.3.239.
    """

    def score(x: Array, y: Array) -> Array:
        pairs = _pairs(x, y)
        length = np.sqrt((pairs.total - pairs.tied_x).astype(float) * (pairs.total - pairs.tied_y))
        return np.clip((pairs.concordant - pairs.discordant) / length, -1.0, 1.0)

    return scored(a, b, score, varies)


def pairwise_rank_agreement(a: Any, b: Any) -> Array:
    """Share of the pairs of cells whose magnitudes |r| stand in the same order, in [0, 1]. (N, H, W) -> (N,).

    Pairs tied in both maps have no order and are left out (two cells of an empty background), one tied in a single map
    agrees by half. NaN where the magnitudes of a map are constant or not finite. Source: Krishna et al., arXiv
    2202.01602, where ties do not occur.
    """

    def score(x: Array, y: Array) -> Array:
        pairs = _pairs(np.abs(x), np.abs(y))
        ordered = pairs.total - pairs.tied_both
        return (pairs.total - pairs.discordant - (pairs.tied_x + pairs.tied_y) / 2) / ordered

    return scored(a, b, score, magnitudes_vary)


def rank_biased_overlap(a: Any, b: Any, p: float = 0.9) -> Array:
    """Overlap of the top d cells, averaged over all depths d with weights p^(d-1), in [0, 1]. (N, H, W) -> (N,).

    RBO_ext = A_n p^n + (1 - p) sum_{d=1..n} p^(d-1) A_d, A_d the shared part of the d cells with the largest values.
    p is the patience: 1 / (1 - p) is the depth looked at on average, and p = 0.9 puts 86% of the weight on the top 10.
    NaN where a map is constant or not finite. Raises ConfigError for p outside (0, 1).
    Source: Webber, Moffat and Zobel 2010, doi 10.1145/1852102.1852106, eq. 32.
    """

    def score(x: Array, y: Array) -> Array:
        first, second = places(x), places(y)
        total, whole = np.zeros(len(x)), 0.0
        for depth, weight in enumerate(weights, start=1):
            total += weight * common(members(first, depth), members(second, depth))
            whole += weight
        return total / whole

    height, width = map_size(a)
    weights = overlap_weights(height * width, p)
    return scored(a, b, score, varies)


def overlap_weights(n: int, p: float) -> Array:
    """Weights of the depths 1, 2, ... of `rank_biased_overlap` over n cells, to the depth where p^d < 1e-17; sum 1."""
    if not 0 < p < 1:
        raise ConfigError(f"the patience p of rank-biased overlap must lie between 0 and 1, got {p}: choose 0.9, say")
    depth = min(n, math.ceil(math.log(1e-17) / math.log(p)))
    weights: Array = (1 - p) * p ** np.arange(depth, dtype=np.float64)
    weights[-1] += p**depth
    return weights


def places(x: Array) -> tuple[Array, Array]:
    """For each cell of maps (N, n): how many cells of its map are larger, and how many are equal (itself included).

    Its places, the largest cell's being 1, are above + 1 to above + tied.
    """
    order = np.argsort(-x, axis=1)
    new = np.diff(np.take_along_axis(x, order, axis=1), axis=1) != 0
    start, end = _starts(new), x.shape[1] - _starts(new[:, ::-1])[:, ::-1]
    above, tied = np.empty_like(x), np.empty_like(x)
    np.put_along_axis(above, order, start, axis=1)
    np.put_along_axis(tied, order, end - start, axis=1)
    return above, tied


def members(where: tuple[Array, Array], k: int) -> Array:
    """To what share each cell is one of the k largest, in [0, 1], given its `places`; the shares of a map sum to k."""
    above, tied = where
    return np.clip((k - above) / tied, 0.0, 1.0)


def common(w: Array, v: Array, agreeing: Mask | bool = True) -> Array:
    """The part that two sets of equal size share, from their memberships (N, n): sum min(w, v) / k, in [0, 1].

    agreeing  the cells that may count
    """
    # Divided by what was summed, not by k: identical sets give exactly 1 for whatever rounding.
    return 2 * (np.minimum(w, v) * agreeing).sum(axis=1) / (w.sum(axis=1) + v.sum(axis=1))


def inversions(orders: Counts) -> Counts:
    """In how many pairs of places the larger number stands first: permutations (N, n) of 0 ... n-1 -> (N,).

    One bit a step, the highest first: a pair that first differs in this bit is inverted where its one stands before
    its zero. O(n log n).

    >>> inversions(np.array([[0, 1, 2], [2, 0, 1], [2, 1, 0]]))
    array([0, 2, 3])
    """
    rows, n = orders.shape
    blocks = np.empty((rows, 1, 1 << (n - 1).bit_length()), dtype=np.int32)
    blocks[:, 0, :n] = orders
    blocks[:, 0, n:] = np.arange(n, blocks.shape[2])
    found = np.zeros(rows, dtype=np.int64)
    while half := blocks.shape[2] // 2:
        one = (blocks & half) != 0
        found += (np.cumsum(one, axis=2, dtype=np.int32) * ~one).sum(axis=(1, 2))
        halves = [blocks[chosen].reshape(rows, -1, 1, half) for chosen in (~one, one)]
        blocks = np.concatenate(halves, axis=2).reshape(rows, -1, half)
    return found


def magnitudes_vary(x: Array) -> Mask:
    """Which maps (N, n), scaled to max|.| 1, have magnitudes that are not all the same."""
    return varies(np.abs(x))


@dataclass(frozen=True)
class _Pairs:
    # Pairs of cells: all of them, and for each image those in opposite order and those tied in x, in y, in both.
    total: int
    discordant: Counts
    tied_x: Counts
    tied_y: Counts
    tied_both: Counts

    @property
    def concordant(self) -> Counts:
        return self.total - self.tied_x - self.tied_y + self.tied_both - self.discordant


def _pairs(x: Array, y: Array) -> _Pairs:
    n = x.shape[1]
    order = np.lexsort((y, x), axis=1)
    x, y = (np.take_along_axis(v, order, axis=1) for v in (x, y))
    by_y = np.argsort(y, axis=1, kind="stable")
    new_x, new_y = np.diff(x, axis=1) != 0, np.diff(y, axis=1) != 0
    new_in_order = np.diff(np.take_along_axis(y, by_y, axis=1), axis=1) != 0
    return _Pairs(n * (n - 1) // 2, inversions(by_y), *map(_tied, (new_x, new_in_order, new_x | new_y)))


def _tied(new: Mask) -> Counts:
    starts = _starts(new)
    return (np.arange(starts.shape[1]) - starts).sum(axis=1)


def _starts(new: Mask) -> Counts:
    # Sorted cells (N, n), new (N, n-1) where one differs from the one before -> where each one's run of equals starts.
    starts = np.zeros((len(new), new.shape[1] + 1), dtype=np.int64)
    starts[:, 1:] = np.where(new, np.arange(1, starts.shape[1]), 0)
    return np.maximum.accumulate(starts, axis=1)

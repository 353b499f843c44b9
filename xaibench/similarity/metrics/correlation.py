"""Scores from products of cells: cosine, and Pearson's correlation of values or ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from xaibench.similarity.maps import Array, scored, varies
from xaibench.similarity.metrics.ranks import places

__all__ = ["cosine", "pearson", "spearman"]


def cosine(a: Any, b: Any) -> Array:
    """a.b / (|a| |b|) per image, in [-1, 1]. Maps (N, H, W) -> (N,); NaN where a map is all zero or not finite."""
    return scored(a, b, _cosine)


def pearson(a: Any, b: Any) -> Array:
    """Correlation of the cells, in [-1, 1]. (N, H, W) -> (N,); NaN where a map is constant or not finite."""
    return scored(a, b, lambda x, y: _cosine(_centred(x), _centred(y)), varies)


def spearman(a: Any, b: Any) -> Array:
    """Pearson correlation of the ranks, average ranks for ties, in [-1, 1]. (N, H, W) -> (N,); NaN as for `pearson`."""
    return scored(a, b, lambda x, y: _cosine(_centred_ranks(x), _centred_ranks(y)), varies)


def _cosine(x: Array, y: Array) -> Array:
    lengths = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.clip((x * y).sum(axis=1) / lengths, -1.0, 1.0)


def _centred(x: Array) -> Array:
    return x - x.mean(axis=1, keepdims=True)


def _centred_ranks(x: Array) -> Array:
    above, tied = places(x)
    return x.shape[1] / 2 - (above + tied / 2)

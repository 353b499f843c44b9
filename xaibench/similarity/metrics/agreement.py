"""Scores from the strongest cells of each map: overlap, and agreement in feature, sign and rank.

Two maps' top k = max(1, round(share n)) of n cells are compared. `topk_iou` and `topk_overlap` take the largest values
(of signed maps the most positive cells), the agreements of Krishna et al. (arXiv 2202.01602) the largest magnitudes.
Cells tied over several places share them evenly (see `ranks`): a cell is in the top k to a share w in [0, 1], and two
cells agree to the smaller of their shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xaibench.errors import ConfigError
from xaibench.similarity.maps import Array, Mask, scored, varies
from xaibench.similarity.metrics.ranks import common, magnitudes_vary, members, places

__all__ = [
    "feature_agreement",
    "rank_agreement",
    "sign_agreement",
    "signed_rank_agreement",
    "top_cells",
    "topk_iou",
    "topk_overlap",
    "topk_sign_agreement",
]


def top_cells(n: int, share: float = 0.1) -> int:
    """How many of n cells count as the top: k = max(1, round(share n)).

    Raises ConfigError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"the share of top cells must lie above 0 and not above 1, got {share}: choose 0.1, say")
    return max(1, round(share * n))


def topk_iou(a: Any, b: Any, share: float = 0.1) -> Array:
    """Intersection over union of each map's k = max(1, round(share n)) largest cells, in [0, 1]. (N, H, W) -> (N,).

    Largest by value: of signed maps the most positive cells, of absolute ones the strongest. With memberships w and v
    that sum to k, IoU = sum min(w, v) / sum max(w, v), which without ties is the plain IoU. NaN where a map is constant
    or not finite.
    """

    def score(x: Array, y: Array) -> Array:
        w, v = _tops(x, y, share)
        return np.minimum(w, v).sum(axis=1) / np.maximum(w, v).sum(axis=1)

    return scored(a, b, score, varies)


def topk_overlap(a: Any, b: Any, share: float = 0.1) -> Array:
    """Shared part |A & B| / k of each map's k largest cells, in [0, 1]. (N, H, W) -> (N,); else as `topk_iou`."""
    return scored(a, b, lambda x, y: common(*_tops(x, y, share)), varies)


def sign_agreement(a: Any, b: Any) -> Array:
    """Share of the cells with equal sign (-1, 0 or 1), in [0, 1]. (N, H, W) -> (N,).

    Cells that are 0 in both maps are left out: there both say nothing, as on a background that equals the baseline of
    integrated gradients. Zero in one map alone is a disagreement. NaN where a map is all zero or not finite.
    """

    def score(x: Array, y: Array) -> Array:
        speaking = (x != 0) | (y != 0)
        return (_same_sign(x, y) & speaking).sum(axis=1) / speaking.sum(axis=1)

    return scored(a, b, score)


def feature_agreement(a: Any, b: Any, share: float = 0.1) -> Array:
    """Shared part of each map's k cells of largest magnitude |r|, in [0, 1]. (N, H, W) -> (N,).

    NaN where the magnitudes of a map are constant or not finite. Source: Krishna et al., arXiv 2202.01602.
    """
    return scored(a, b, lambda x, y: common(*_tops(np.abs(x), np.abs(y), share)), magnitudes_vary)


def topk_sign_agreement(a: Any, b: Any, share: float = 0.1) -> Array:
    """As `feature_agreement`, counting the shared cells whose sign is equal too: Krishna et al.'s sign agreement."""

    def score(x: Array, y: Array) -> Array:
        return common(*_tops(np.abs(x), np.abs(y), share), _same_sign(x, y))

    return scored(a, b, score, magnitudes_vary)


def rank_agreement(a: Any, b: Any, share: float = 0.1) -> Array:
    """Share of the k first places by magnitude on which the same cell stands, in [0, 1]. (N, H, W) -> (N,).

    Of t cells tied over t places each stands on each place to 1/t. NaN where the magnitudes of a map are constant or
    not finite. Source: Krishna et al., arXiv 2202.01602.
    """
    return scored(a, b, lambda x, y: _same_places(x, y, share, True), magnitudes_vary)


def signed_rank_agreement(a: Any, b: Any, share: float = 0.1) -> Array:
    """As `rank_agreement`, counting the cells whose sign is equal too. Source: Krishna et al., arXiv 2202.01602."""
    return scored(a, b, lambda x, y: _same_places(x, y, share, _same_sign(x, y)), magnitudes_vary)


def _tops(x: Array, y: Array, share: float) -> tuple[Array, Array]:
    k = top_cells(x.shape[1], share)
    return members(places(x), k), members(places(y), k)


def _same_places(x: Array, y: Array, share: float, agreeing: Mask | bool) -> Array:
    k = top_cells(x.shape[1], share)
    first, second = places(np.abs(x)), places(np.abs(y))
    (above, tied), (over, equal) = first, second
    shared = np.minimum(np.minimum(above + tied, over + equal), k) - np.maximum(above, over)
    agreed = (np.maximum(shared, 0) / np.maximum(tied, equal) * agreeing).sum(axis=1)
    return 2 * agreed / (members(first, k).sum(axis=1) + members(second, k).sum(axis=1))


def _same_sign(x: Array, y: Array) -> Mask:
    return np.sign(x) == np.sign(y)

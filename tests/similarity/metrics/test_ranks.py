from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from xaibench.errors import ConfigError
from xaibench.similarity.metrics.agreement import rank_agreement, top_cells, topk_iou, topk_overlap
from xaibench.similarity.metrics.ranks import (
    common,
    inversions,
    members,
    overlap_weights,
    pairwise_rank_agreement,
    places,
    rank_biased_overlap,
)

quick = settings(deadline=None, max_examples=25)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40))
@quick
def test_inversions_are_counted_one_by_one(seed: int, n: int) -> None:
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (4, 1)), axis=1)
    expected = [sum(x > y for x, y in itertools.combinations(row, 2)) for row in orders.tolist()]
    assert inversions(orders).tolist() == expected


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40))
@quick
def test_places_are_those_of_scipy_and_members_fill_k(seed: int, n: int) -> None:
    x = np.random.default_rng(seed).integers(-3, 4, (4, n)).astype(float)
    above, tied = places(x)
    np.testing.assert_array_equal(above + 1, rankdata(-x, method="min", axis=1))
    np.testing.assert_array_equal(above + tied, rankdata(-x, method="max", axis=1))
    for k in range(1, n + 1):
        shares = members((above, tied), k)
        np.testing.assert_allclose(shares.sum(axis=1), k, rtol=1e-12)
        assert (common(shares, shares) == 1).all()


def test_rank_agreement_of_a_swap_and_of_a_tie() -> None:
    ten = np.arange(20.0, 0, -1).reshape(1, 4, 5)  # k = 2
    swapped, tied = ten.copy(), ten.copy()
    swapped[0, 0, :2] = 19, 20
    tied[0, 0, :2] = 20
    assert rank_agreement(ten, swapped)[0] == 0
    assert topk_overlap(ten, swapped)[0] == 1
    assert rank_agreement(ten, tied)[0] == 0.5
    assert pairwise_rank_agreement(ten, swapped)[0] == pytest.approx(1 - 1 / 190)
    assert pairwise_rank_agreement(ten, tied)[0] == pytest.approx(1 - 0.5 / 190)


def test_rank_biased_overlap_by_hand() -> None:
    a, b = np.array([[[4.0, 3], [2, 1]]]), np.array([[[3.0, 4], [2, 1]]])
    # A = 0, 1, 1, 1 at depths 1 to 4
    assert rank_biased_overlap(a, b, p=0.5)[0] == pytest.approx(0.5)
    assert rank_biased_overlap(a, b, p=0.9)[0] == pytest.approx(0.9)
    assert rank_biased_overlap(a, -a, p=0.5)[0] == pytest.approx(0.5**4 + 0.5 * (0.5**2 * 2 / 3 + 0.5**3))


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (9, 0.9), (10_000, 0.9), (10_000, 0.999)])
def test_weights_of_the_depths_sum_to_one(n: int, p: float) -> None:
    weights = overlap_weights(n, p)
    assert len(weights) <= n
    assert weights.sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("p", [0, 1, -0.5, 2, float("nan")])
def test_patience_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match=r"patience p .* must lie between 0 and 1, got"):
        rank_biased_overlap(np.ones((1, 2, 2)), np.ones((1, 2, 2)), p)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_shares_outside_their_range_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="share of top cells must lie above 0 and not above 1, got"):
        top_cells(196, share)


def test_all_cells_as_top_cells_agree() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    assert (topk_iou(a, b, share=1) == 1).all()
    assert [top_cells(n) for n in (1, 4, 64, 196)] == [1, 1, 6, 20]

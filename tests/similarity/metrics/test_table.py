"""Laws that all metrics of two heatmaps hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import DataError
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, topk_iou

CORRELATIONS = ("pearson", "spearman", "kendall")
BY_MAGNITUDE = (
    "feature_agreement",
    "topk_sign_agreement",
    "rank_agreement",
    "signed_rank_agreement",
    "pairwise_rank_agreement",
)
BY_ORDER = ("spearman", "kendall", "topk_iou", "topk_overlap", "rank_biased_overlap")
IN_SPACE = ("ssim", "transport_positive", "transport_negative")
DEFINED_WHEN_CONSTANT = ("cosine", "ssim", "sign_agreement", "transport_positive")
quick = settings(deadline=None, max_examples=20)


def pair(seed: int, n: int = 3, side: int = 6, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(seed).standard_normal((2, n, side, side))
    b = 0.5 * a + b
    return (np.round(2 * a) / 2, np.round(2 * b) / 2) if ties else (a, b)


def test_the_default_is_some_of_all_metrics() -> None:
    assert set(DEFAULT_METRICS) < set(METRICS)
    assert all(metric.name == name and metric.range[1] == 1 for name, metric in METRICS.items())
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
@quick
def test_identity_is_exactly_one(name: str, seed: int, ties: bool) -> None:
    a, _ = pair(seed, ties=ties)
    assert (METRICS[name](a, a) == 1).all()


@pytest.mark.parametrize("name", ["cosine", *CORRELATIONS])
@given(seed=st.integers(0, 2**31), ties=st.booleans())
@quick
def test_negation_is_minus_one(name: str, seed: int, ties: bool) -> None:
    a, _ = pair(seed, ties=ties)
    assert (METRICS[name](a, -a) == -1).all()


@pytest.mark.parametrize("name", BY_MAGNITUDE)
@given(seed=st.integers(0, 2**31))
@quick
def test_negation_keeps_magnitudes_and_loses_signs(name: str, seed: int) -> None:
    a, _ = pair(seed)
    assert (METRICS[name](a, -a) == (0 if "sign" in name else 1)).all()


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**31), exponents=st.tuples(st.integers(-80, 80), st.integers(-80, 80)))
@quick
def test_scale_does_not_matter(name: str, seed: int, exponents: tuple[int, int]) -> None:
    a, b = pair(seed)
    scaled = METRICS[name](a * 10.0 ** exponents[0], b * 10.0 ** exponents[1])
    np.testing.assert_allclose(scaled, METRICS[name](a, b), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
@quick
def test_symmetric_within_range_and_each_image_by_itself(name: str, seed: int, ties: bool) -> None:
    a, b = pair(seed, n=5, ties=ties)
    scores = METRICS[name](a, b)
    np.testing.assert_allclose(METRICS[name](b, a), scores, rtol=1e-12, atol=1e-15)
    low, high = METRICS[name].range
    assert ((scores >= low) & (scores <= high)).all()
    order = np.random.default_rng(seed).permutation(5)
    np.testing.assert_array_equal(METRICS[name](a[order], b[order]), scores[order])


@pytest.mark.parametrize("name", [name for name in METRICS if name not in IN_SPACE])
@given(seed=st.integers(0, 2**31))
@quick
def test_the_order_of_cells_does_not_matter(name: str, seed: int) -> None:
    a, b = pair(seed, ties=True)
    order = np.random.default_rng(seed).permutation(36)
    moved = [x.reshape(3, 36)[:, order].reshape(3, 6, 6) for x in (a, b)]
    np.testing.assert_allclose(METRICS[name](*moved), METRICS[name](a, b), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", IN_SPACE)
def test_both_maps_can_be_turned_and_mirrored(name: str) -> None:
    a, b = pair(2)
    for turned in ((a.swapaxes(1, 2), b.swapaxes(1, 2)), (a[:, ::-1], b[:, ::-1])):
        np.testing.assert_allclose(METRICS[name](*turned), METRICS[name](a, b), rtol=1e-12)


@pytest.mark.parametrize("name", BY_ORDER)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
@quick
def test_only_the_order_of_the_values_counts(name: str, seed: int, ties: bool) -> None:
    a, b = pair(seed, ties=ties)
    np.testing.assert_array_equal(METRICS[name](a**3, np.exp(b)), METRICS[name](a, b))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("side", ["first", "second"])
def test_undefined_maps_are_nan_and_touch_no_other_image(name: str, side: str) -> None:
    a, b = pair(3, n=5)
    expected = METRICS[name](a, b)
    broken = (a if side == "first" else b).copy()
    broken[0] = 0
    broken[1, 2, 2] = np.nan
    broken[2, 0, 0] = np.inf
    broken[3] = 0.1
    scores = METRICS[name](broken, b) if side == "first" else METRICS[name](a, broken)
    assert np.isnan(scores[:3]).all()
    assert np.isnan(scores[3]) == (name not in DEFINED_WHEN_CONSTANT)
    assert scores[4] == expected[4]


@pytest.mark.parametrize("name", METRICS)
def test_maps_of_one_cell_and_of_all_undefined_pairs(name: str) -> None:
    one = np.full((2, 1, 1), 3.0)
    assert np.isnan(METRICS[name](one, one)).all() == (name not in ("cosine", "sign_agreement"))
    assert np.isnan(METRICS[name](np.zeros((4, 3, 3)), np.ones((4, 3, 3)))).all()


@pytest.mark.parametrize("name", BY_MAGNITUDE)
def test_equal_magnitudes_have_no_strongest_cell(name: str) -> None:
    a, b = pair(5)
    assert np.isnan(METRICS[name](np.sign(a), b)).all()


def test_constant_up_to_rounding_is_constant() -> None:
    a, b = pair(0)
    nearly = 1 + 1e-15 * a
    for name in CORRELATIONS:
        assert np.isnan(METRICS[name](nearly, b)).all()


@pytest.mark.parametrize("name", METRICS)
def test_takes_tensors_with_gradients_and_no_images(name: str) -> None:
    a, b = pair(1)
    tensors = [torch.tensor(x, requires_grad=True) for x in (a, b)]
    np.testing.assert_array_equal(METRICS[name](*tensors), METRICS[name](a, b))
    assert METRICS[name](a.astype(np.float32), b.astype(np.float32)).dtype == np.float64
    assert METRICS[name](a[:0], b[:0]).shape == (0,)


def test_top_cells_are_the_most_positive_of_signed_maps() -> None:
    a, b = np.zeros((2, 1, 3, 3))
    a[0, 0, 0], b[0, 0, 0] = -5, -5
    a[0, 1, 1], b[0, 2, 2] = 1, 1
    assert topk_iou(a, b)[0] == 0
    assert topk_iou(np.abs(a), np.abs(b))[0] == 1
    assert METRICS["feature_agreement"](a, b)[0] == 1


@pytest.mark.parametrize("name", METRICS)
def test_different_shapes_are_refused(name: str) -> None:
    a, b = pair(0)
    with pytest.raises(DataError, match=r"different shapes \(3, 6, 6\) and \(2, 6, 6\)"):
        METRICS[name](a, b[:2])
    with pytest.raises(DataError, match=r"\(N, H, W\), got \(6, 6\)"):
        METRICS[name](a[0], b[0])


@pytest.mark.parametrize("name", ["sign_agreement", "pairwise_rank_agreement"])
def test_an_empty_background_adds_nothing(name: str) -> None:
    maps = np.random.default_rng(3).standard_normal((2, 400, 8, 8))
    scores, framed = METRICS[name](*maps[..., 2:6, 2:6]), np.zeros_like(maps)
    framed[..., 2:6, 2:6] = maps[..., 2:6, 2:6]
    if name == "sign_agreement":
        np.testing.assert_array_equal(METRICS[name](*framed), scores)
    # A pair of a cell and an empty one is in order in both maps; pairs of two empty ones do not count.
    empty, filled = 48, 16
    ordered = filled * (filled - 1) / 2
    expected = (scores * ordered + empty * filled) / (ordered + empty * filled)
    if name == "pairwise_rank_agreement":
        np.testing.assert_allclose(METRICS[name](*framed), expected)

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.similarity.heatmaps import METRICS, default_grid, pool, ssim_window, topk_iou, with_sign

CORRELATIONS = ("pearson", "spearman")
quick = settings(deadline=None, max_examples=20)


def pair(seed: int, n: int = 3, side: int = 6, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.random.default_rng(seed).standard_normal((2, n, side, side))
    b = 0.5 * a + b
    return (np.round(2 * a) / 2, np.round(2 * b) / 2) if ties else (a, b)


# Slow twins: one image, plain loops over Python floats.


def twin_cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b)) / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def twin_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    return twin_cosine([x - mean_a for x in a], [y - mean_b for y in b])


def twin_ranks(a: list[float]) -> list[float]:
    return [sum(y < x for y in a) + (sum(y == x for y in a) + 1) / 2 for x in a]


def twin_spearman(a: list[float], b: list[float]) -> float:
    return twin_pearson(twin_ranks(a), twin_ranks(b))


def twin_ssim(a: list[float], b: list[float]) -> float:
    side = math.isqrt(len(a))
    x, y = (np.reshape(v, (side, side)) / max(map(abs, v)) for v in (a, b))
    window = max(w for w in (1, 3, 5, 7) if w <= side)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    scores = []
    for i, j in itertools.product(range(side - window + 1), repeat=2):
        p, q = (v[i : i + window, j : j + window].ravel() for v in (x, y))
        cov = np.cov(p, q)
        numerator = (2 * p.mean() * q.mean() + c1) * (2 * cov[0, 1] + c2)
        scores.append(numerator / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return math.fsum(scores) / len(scores)


def twin_membership(a: list[float]) -> list[float]:
    k = max(1, round(0.1 * len(a)))
    threshold = sorted(a, reverse=True)[k - 1]
    above, tied = sum(x > threshold for x in a), sum(x == threshold for x in a)
    return [1.0 if x > threshold else (k - above) / tied if x == threshold else 0.0 for x in a]


def twin_topk_iou(a: list[float], b: list[float]) -> float:
    w, v = twin_membership(a), twin_membership(b)
    return math.fsum(map(min, w, v)) / math.fsum(map(max, w, v))


def twin_sign_agreement(a: list[float], b: list[float]) -> float:
    return sum((x > 0) == (y > 0) and (x < 0) == (y < 0) for x, y in zip(a, b)) / len(a)


TWINS: dict[str, Callable[[list[float], list[float]], float]] = {
    "cosine": twin_cosine,
    "pearson": twin_pearson,
    "spearman": twin_spearman,
    "ssim": twin_ssim,
    "topk_iou": twin_topk_iou,
    "sign_agreement": twin_sign_agreement,
}


def test_every_metric_has_a_twin() -> None:
    assert set(TWINS) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("side", [4, 6, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_its_slow_twin(name: str, side: int, ties: bool) -> None:
    a, b = pair(side, side=side, ties=ties)
    expected = [TWINS[name](list(x.ravel()), list(y.ravel())) for x, y in zip(a, b)]
    np.testing.assert_allclose(METRICS[name](a, b), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "key"),
    [("cosine", "cosine"), ("pearson", "pearson"), ("spearman", "spearman"), ("ssim", "ssim_2d_maxabs_range2_win7")],
)
def test_golden_values(golden: Path, name: str, key: str) -> None:
    maps = np.load(golden / "similarity.npz")
    expected = json.loads((golden / "similarity.json").read_text())[key]
    np.testing.assert_allclose(METRICS[name](maps["maps_a"], maps["maps_b"]), expected, rtol=1e-9)


def test_ranks_of_ties_agree_with_scipy() -> None:
    a, b = pair(0, ties=True)
    expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b)]
    np.testing.assert_allclose(METRICS["spearman"](a, b), expected, rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(seed=st.integers(0, 2**31), ties=st.booleans())
@quick
def test_identity_is_exactly_one(name: str, seed: int, ties: bool) -> None:
    a, _ = pair(seed, ties=ties)
    assert (METRICS[name](a, a) == 1).all()


@pytest.mark.parametrize("name", ["cosine", *CORRELATIONS])
@given(seed=st.integers(0, 2**31))
@quick
def test_negation_is_minus_one(name: str, seed: int) -> None:
    a, _ = pair(seed)
    assert (METRICS[name](a, -a) == -1).all()


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


@pytest.mark.parametrize("name", [m for m in METRICS if m != "ssim"])
@given(seed=st.integers(0, 2**31))
@quick
def test_the_order_of_cells_does_not_matter(name: str, seed: int) -> None:
    a, b = pair(seed, ties=True)
    order = np.random.default_rng(seed).permutation(36)
    moved = [x.reshape(3, 36)[:, order].reshape(3, 6, 6) for x in (a, b)]
    np.testing.assert_allclose(METRICS[name](*moved), METRICS[name](a, b), rtol=1e-12, atol=1e-15)


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
    assert np.isnan(scores[3]) == (name in (*CORRELATIONS, "topk_iou"))
    assert scores[4] == expected[4]


def test_constant_up_to_rounding_is_constant() -> None:
    a, b = pair(0)
    nearly = 1 + 1e-15 * a
    assert np.isnan(METRICS["pearson"](nearly, b)).all()


@pytest.mark.parametrize("name", METRICS)
def test_takes_tensors_with_gradients_and_no_images(name: str) -> None:
    a, b = pair(1)
    tensors = [torch.tensor(x, requires_grad=True) for x in (a, b)]
    np.testing.assert_array_equal(METRICS[name](*tensors), METRICS[name](a, b))
    assert METRICS[name](a[:0], b[:0]).shape == (0,)


def test_top_cells_are_the_most_positive_of_signed_maps() -> None:
    a, b = np.zeros((2, 1, 3, 3))
    a[0, 0, 0], b[0, 0, 0] = -5, -5
    a[0, 1, 1], b[0, 2, 2] = 1, 1
    assert topk_iou(a, b)[0] == 0
    assert topk_iou(np.abs(a), np.abs(b))[0] == 1


def test_ssim_window_fits_the_map_and_tiny_maps_have_none() -> None:
    assert [ssim_window(s, s) for s in (14, 8, 7, 6, 5, 4, 3)] == [7, 7, 7, 5, 5, 3, 3]
    assert ssim_window(3, 14) == 3
    a, b = pair(0, side=2)
    assert np.isnan(METRICS["ssim"](a, b)).all()


@pytest.mark.parametrize("name", METRICS)
def test_different_shapes_are_refused(name: str) -> None:
    a, b = pair(0)
    with pytest.raises(DataError, match=r"different shapes \(3, 6, 6\) and \(2, 6, 6\)"):
        METRICS[name](a, b[:2])
    with pytest.raises(DataError, match=r"\(N, H, W\), got \(6, 6\)"):
        METRICS[name](a[0], b[0])


def test_default_grid() -> None:
    assert [default_grid(s, s) for s in (224, 64, 32, 28, 12, 8, 4, 1)] == [14, 14, 8, 7, 3, 2, 2, 1]
    assert default_grid(32, 224) == 8


def test_pool_averages_blocks() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 32, 32))
    expected = maps.reshape(2, 8, 4, 8, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(pool(maps), expected, rtol=1e-12)
    np.testing.assert_allclose(pool(torch.tensor(maps)), expected, rtol=1e-12)
    assert pool(maps.astype(np.float32), 5).dtype == np.float64
    assert not np.shares_memory(pool(maps, 32), maps)


@pytest.mark.parametrize("grid", [0, 7, -1])
def test_pool_refuses_a_grid_that_does_not_fit(grid: int) -> None:
    with pytest.raises(ConfigError, match=f"grid {grid} does not fit 6x9 heatmaps: choose 1 to 6"):
        pool(np.zeros((1, 6, 9)), grid)


def test_sign_modes() -> None:
    maps = np.array([[-2.0, 0.0, 3.0]])
    assert with_sign(maps, "signed").tolist() == [[-2, 0, 3]]
    assert with_sign(maps, "absolute").tolist() == [[2, 0, 3]]
    assert with_sign(maps, "positive").tolist() == [[0, 0, 3]]
    with pytest.raises(UnknownNameError, match="did you mean 'positive'"):
        with_sign(maps, "positiv")

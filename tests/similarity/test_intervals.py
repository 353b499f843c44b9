from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.intervals import (
    Interval,
    bootstrap_mean,
    common_images,
    curve_interval,
    mean_interval,
    paired_bootstrap,
    ratio_interval,
    seed_interval,
    speaks_for,
    subtask_interval,
)


def test_close_to_the_interval_of_a_normal_mean() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, 400)
    got = bootstrap_mean(x)
    half = stats.norm.ppf(0.975) * x.std() / 20
    assert got.mean == pytest.approx(x.mean())
    assert got.low == pytest.approx(x.mean() - half, abs=0.03 * half * 2)
    assert got.high == pytest.approx(x.mean() + half, abs=0.03 * half * 2)
    assert (got.n, got.nan) == (400, 0)


def test_agrees_with_scipy() -> None:
    x = np.random.default_rng(1).exponential(size=30)
    got = bootstrap_mean(x, level=0.9)
    oracle = stats.bootstrap((x,), np.mean, confidence_level=0.9, method="percentile", rng=np.random.default_rng(2))
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert (got.low, got.high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.04 * width)


def test_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    samples = generator.normal(size=(300, 40))
    hits = sum(i.low <= 0 <= i.high for i in (bootstrap_mean(x, resamples=400) for x in samples))
    assert 0.90 <= hits / 300 <= 0.98


def test_seeded_and_independent_of_memory_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(4).normal(size=20)
    first = bootstrap_mean(x, seed=1)
    assert bootstrap_mean(x, seed=1) == first
    assert bootstrap_mean(x, seed=2) != first
    monkeypatch.setattr("xaibench.similarity.intervals._CHUNK", 1000)
    assert bootstrap_mean(x, seed=1) == first


def test_undefined_values_are_left_out_and_counted() -> None:
    x = np.array([0.2, np.nan, 0.4, 0.9, np.nan])
    assert bootstrap_mean(x) == dataclasses.replace(bootstrap_mean(x[[0, 2, 3]]), nan=2)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one, none = bootstrap_mean([0.3, np.nan]), bootstrap_mean([np.nan])
    assert (one.mean, one.n, one.nan) == (0.3, 1, 1)
    assert np.isnan([one.low, one.high, none.mean, none.low, none.high]).all()
    assert (none.n, none.nan) == (0, 1)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_mean([0.1] * 7) == Interval(*[pytest.approx(0.1)] * 3, 7, speaks_for="this student")


def test_paired_differences_are_tighter_than_unpaired_ones() -> None:
    generator = np.random.default_rng(5)
    base = generator.normal(size=100)
    a, b = base + 0.1 + 0.01 * generator.normal(size=100), base.copy()
    b[0] = np.nan
    got = paired_bootstrap(a, b)
    assert got.low < 0.1 < got.high
    assert got.high - got.low < 0.01
    assert (got.n, got.nan) == (99, 1)
    reverse = paired_bootstrap(b, a)
    assert reverse.mean == -got.mean


def test_text() -> None:
    assert str(Interval(0.5, 0.4, 0.61234, 10)) == "0.500 [0.400, 0.612]"


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_outside_the_unit_interval(level: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bootstrap_mean([1.0, 2.0], level=level)


def test_bad_values() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        bootstrap_mean([1.0, 2.0], resamples=0)
    with pytest.raises(DataError, match=r"shape \(1, 2\)"):
        bootstrap_mean([[1.0, 2.0]])
    with pytest.raises(DataError, match="infinite values"):
        bootstrap_mean([1.0, np.inf])
    with pytest.raises(DataError, match="got 2 and 1"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_one_seed_is_the_bootstrap_over_images() -> None:
    x = np.random.default_rng(6).normal(size=60)
    got, plain = mean_interval(x[None]), bootstrap_mean(x)
    width = plain.high - plain.low
    assert got.mean == pytest.approx(plain.mean)
    assert (got.low, got.high) == pytest.approx((plain.low, plain.high), abs=0.04 * width)
    assert (got.n, got.nan) == (60, 0)


def two_way_by_hand(x: np.ndarray) -> tuple[float, float]:
    """The interval with sums written out, term by term."""
    seeds, images = x.shape
    mean = sum(x[i, j] for i in range(seeds) for j in range(images)) / (seeds * images)
    rows = [sum(x[i]) / images for i in range(seeds)]
    columns = [sum(x[:, j]) / seeds for j in range(images)]
    a = images * sum((row - mean) ** 2 for row in rows) / (seeds - 1)
    b = seeds * sum((column - mean) ** 2 for column in columns) / (images - 1)
    rest = ((x[i, j] - rows[i] - columns[j] + mean) ** 2 for i in range(seeds) for j in range(images))
    e = sum(rest) / ((seeds - 1) * (images - 1))
    v = max(a + b - e, a, b)
    df = v**2 / (a**2 / (seeds - 1) + b**2 / (images - 1) + e**2 / ((seeds - 1) * (images - 1)))
    half = stats.t.ppf(0.975, max(df, 1)) * (v / (seeds * images)) ** 0.5
    return mean - half, mean + half


@given(seed=st.integers(0, 10**6), seeds=st.integers(2, 6), images=st.integers(2, 12), spread=st.floats(0, 3))
@settings(deadline=None, max_examples=30)
def test_the_two_way_interval_is_its_formula(seed: int, seeds: int, images: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(seeds, images)) + spread * rng.normal(size=(seeds, 1)) + rng.normal(size=images)
    got = mean_interval(x)
    assert (got.low, got.high) == pytest.approx(two_way_by_hand(x), rel=1e-9, abs=1e-12)
    assert got.mean == pytest.approx(x.mean())
    scaled = mean_interval(2 - 3 * x[::-1, ::-1])
    assert (scaled.low, scaled.high) == pytest.approx((2 - 3 * got.high, 2 - 3 * got.low), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", [(0.0, 0.2, 0.1), (0.05, 0.2, 0.1), (0.1, 0.05, 0.1), (0.0, 0.0, 0.2)])
def test_the_two_way_interval_covers_what_it_says(seeds: int, spread: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    by_seed, by_image, rest = spread
    hits = 0
    for _ in range(1000):
        x = by_seed * rng.normal(size=(seeds, 1)) + by_image * rng.normal(size=40) + rest * rng.normal(size=(seeds, 40))
        one = mean_interval(x)
        hits += one.low <= 0 <= one.high
    assert hits / 1000 >= 0.91  # a percentile bootstrap over seeds and images has .80 for three seeds that differ


def test_curves_have_that_interval_at_each_point() -> None:
    rng = np.random.default_rng(3)
    for seeds in (1, 4):
        curves = rng.normal(size=(seeds, 30, 5))
        mean, low, high, n = curve_interval(curves, resamples=4000)
        for point in range(5):
            want = mean_interval(curves[..., point], resamples=4000)
            assert (mean[point], low[point], high[point]) == pytest.approx((want.mean, want.low, want.high))
        assert n == seeds * 30


def test_a_ratio_over_seeds_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(4), 0
    for _ in range(300):
        below = rng.uniform(1, 3, 40) * rng.uniform(0.9, 1.1, (3, 1))
        above = (0.4 + 0.05 * rng.normal(size=(3, 1)) + 0.1 * rng.normal(size=40)) * below
        one = ratio_interval(above, below)
        hits += one.low <= 0.4 <= one.high
    assert hits / 300 >= 0.91


def test_a_ratio_is_undefined_where_what_it_divides_by_may_be_0() -> None:
    rng = np.random.default_rng(5)
    above, near_0 = rng.normal(1, 0.1, (2, 3, 20))
    unsure = ratio_interval(above, near_0 - 1 + 0.001)
    assert np.isnan([unsure.low, unsure.high]).all()
    assert np.isnan(ratio_interval(above, -near_0).mean)
    with pytest.raises(DataError, match=r"one shape \(S, N\), got \(3, 20\) and \(3, 19\)"):
        ratio_interval(above, near_0[:, 1:])


def covered(intervals: list[Interval]) -> float:
    return float(np.mean([one.low <= 0 <= one.high for one in intervals]))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_intervals_over_seeds_and_subtasks_cover_what_they_say(n: int) -> None:
    rng = np.random.default_rng(n)
    seeds = covered([seed_interval(x) for x in rng.normal(size=(1000, n))])
    tasks = rng.normal(size=(1000, n, 1)) + 2 * rng.normal(size=(1000, n, 4))
    subtasks = covered([subtask_interval(x) for x in tasks])
    assert 0.925 <= seeds <= 0.975
    assert 0.925 <= subtasks <= 0.975
    if n == 3:  # seeds do not speak for subtasks: pooled, they cover far less
        assert covered([seed_interval(x.ravel()) for x in 3 * tasks[..., :1] + rng.normal(size=(1000, 3, 4))]) < 0.8


def test_the_interval_over_subtasks_is_that_of_their_means() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    got, want = subtask_interval(x), stats.ttest_1samp(x.mean(axis=1), 0).confidence_interval()
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert (got.mean, got.n, got.nan) == (pytest.approx(x.mean()), 4, 0)
    x[0, 0], x[1] = np.nan, np.nan
    gaps = subtask_interval(x)
    assert gaps.mean == pytest.approx(np.mean([x[0, 1:].mean(), x[2].mean(), x[3].mean()]))
    assert (gaps.n, gaps.nan) == (3, 4)
    assert subtask_interval(x[2:3]) == seed_interval(x[2])
    assert np.isnan(subtask_interval([[np.nan]]).mean)


def test_intervals_say_for_whom_they_speak() -> None:
    x = np.random.default_rng(1).normal(size=(3, 5))
    assert bootstrap_mean(x[0]).speaks_for == mean_interval(x[:1]).speaks_for == "this student"
    assert ratio_interval(x[:1], x[:1] ** 2).speaks_for == seed_interval(x[0, :1]).speaks_for == "this student"
    assert mean_interval([x[0], [np.nan] * 5]).speaks_for == "this student"  # one seed takes part
    assert subtask_interval(x[:1, :1]).speaks_for == "this student"
    for one in (mean_interval(x), ratio_interval(x, x**2), seed_interval(x[0]), subtask_interval(x[:1])):
        assert one.speaks_for == speaks_for(5) == "other training seeds"
    assert (
        subtask_interval(x).speaks_for == speaks_for(5, 3) == subtask_interval(x[:, :1]).speaks_for == "other subtasks"
    )


def test_seeds_are_compared_on_the_images_that_all_have() -> None:
    x = np.array([[0.1, np.nan, 0.3, 0.7], [0.2, 0.4, np.nan, 0.6], [np.nan] * 4])
    got = mean_interval(x)
    assert dataclasses.replace(got, nan=0) == mean_interval(x[:2, [0, 3]])
    assert (got.n, got.nan) == (4, 6)
    nothing = mean_interval(np.full((2, 3), np.nan))
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
    assert (nothing.n, nothing.nan) == (0, 6)
    assert np.isnan(mean_interval([[0.5]]).low)
    apart = mean_interval([[0.5, np.nan], [np.nan, 0.5]])
    assert (np.isnan(apart.mean), apart.n, apart.nan) == (True, 0, 2)


def test_the_images_that_methods_have_in_common() -> None:
    one, other = [[0.1, np.nan, 0.3], [0.4, 0.5, 0.6]], [[0.1, 0.2, 0.3]]
    assert common_images(one, other).tolist() == [True, False, True]
    assert common_images(other, [[np.nan] * 3]).tolist() == [True] * 3  # what is never defined does not take part
    assert common_images([[np.nan] * 3]).tolist() == [False] * 3
    assert common_images(other[0]).tolist() == [True] * 3


def test_the_ends_stay_where_the_mean_can_lie() -> None:
    wide = mean_interval([[0.9, 0.95], [0.2, 0.99]])
    assert wide.high > 1
    cut = wide.within(-1, 1)
    assert (cut.mean, cut.low, cut.high) == (wide.mean, max(wide.low, -1), 1)
    assert np.isnan(Interval(0.5, np.nan, np.nan, 1).within(0, 1).low)


def test_bad_scores_of_seeds() -> None:
    with pytest.raises(DataError, match=r"scores \(S, N\), seeds by images.* got shape \(2,\)"):
        mean_interval([0.1, 0.2])
    with pytest.raises(DataError, match="infinite values"):
        mean_interval([[0.1, np.inf]])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        mean_interval([[0.1, 0.2]], level=95)


def test_scores_of_one_image_have_no_interval_over_images() -> None:
    for scores in ([[np.nan, 0.3, np.nan]], [[np.nan, 0.3], [np.nan, 0.5], [np.nan, np.nan]]):
        interval = mean_interval(scores)
        assert interval.mean == pytest.approx(np.nanmean(scores))
        assert np.isnan([interval.low, interval.high]).all()


def test_no_resamples() -> None:
    with pytest.raises(ConfigError, match="resamples must be at least 1, got 0"):
        mean_interval([[0.1, 0.2]], resamples=0)

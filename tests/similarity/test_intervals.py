from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.intervals import Interval, bootstrap_mean, bootstrap_seeds, paired_bootstrap


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
    assert bootstrap_mean([0.1] * 7) == Interval(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 7)


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
    got, plain = bootstrap_seeds(x[None]), bootstrap_mean(x)
    width = plain.high - plain.low
    assert got.mean == pytest.approx(plain.mean)
    assert (got.low, got.high) == pytest.approx((plain.low, plain.high), abs=0.04 * width)
    assert (got.n, got.nan) == (60, 0)


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    images = np.random.default_rng(7).normal(size=60)
    plain = bootstrap_mean(images)
    equal = bootstrap_seeds(np.stack([images] * 3))
    spread = bootstrap_seeds(np.stack([images - 1, images, images + 1]))
    assert equal.high - equal.low == pytest.approx(plain.high - plain.low, rel=0.05)
    # Three seeds at -1, 0, 1: the variances of the two means add up.
    expected = np.sqrt((plain.high - plain.low) ** 2 + (2 * 1.96 * np.sqrt(2 / 3 / 3)) ** 2)
    assert spread.high - spread.low == pytest.approx(expected, rel=0.1)


def test_undefined_scores_of_seeds_are_left_out_and_counted() -> None:
    x = np.array([[0.1, np.nan, 0.3], [0.2, np.nan, np.nan]])
    got = bootstrap_seeds(x)
    assert got.mean == pytest.approx(0.2)
    assert (got.n, got.nan) == (3, 3)
    assert got.low <= got.mean <= got.high
    nothing = bootstrap_seeds(np.full((2, 3), np.nan))
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
    assert np.isnan(bootstrap_seeds([[0.5]]).low)


def test_bad_scores_of_seeds() -> None:
    with pytest.raises(DataError, match=r"must be \(S, N\), got shape \(2,\)"):
        bootstrap_seeds([0.1, 0.2])
    with pytest.raises(DataError, match="infinite values"):
        bootstrap_seeds([[0.1, np.inf]])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bootstrap_seeds([[0.1, 0.2]], level=95)


def test_scores_of_one_image_have_no_interval_over_images() -> None:
    for scores in ([[np.nan, 0.3, np.nan]], [[np.nan, 0.3], [np.nan, 0.5], [np.nan, np.nan]]):
        interval = bootstrap_seeds(scores)
        assert interval.mean == pytest.approx(np.nanmean(scores))
        assert np.isnan([interval.low, interval.high]).all()


def test_no_resamples() -> None:
    with pytest.raises(ConfigError, match="resamples must be at least 1, got 0"):
        bootstrap_seeds([[0.1, 0.2]], resamples=0)

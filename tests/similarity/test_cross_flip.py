"""Cross flipping: the student in its teacher's order, with ratio, bands and agreement."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.attribution.targets import Target, make_target
from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.models.pair import ModelPair
from xaibench.similarity.cross_flip import CrossFlip, cross_flip, cross_ratio, curve_band, curve_table, flip_orders
from xaibench.similarity.flipping import flip_curve
from xaibench.similarity.intervals import mean_interval, paired_bootstrap
from xaibench.similarity.patch_order import patch_order, random_order

N, SIDE = 6, 12


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def maps() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: torch.randn(N, SIDE, SIDE, generator=generator) for name in ("teacher", "student")}


@pytest.fixture
def pair(make_pair) -> ModelPair:  # type: ignore[no-untyped-def]
    return make_pair(seed=1)


@pytest.fixture
def target(pair: ModelPair, images: Tensor) -> Target:
    with torch.no_grad():
        return make_target(pair.teacher(images))


def test_each_model_is_flipped_in_its_orders(
    pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target
) -> None:
    cross = cross_flip(pair, images, maps["teacher"], maps["student"], target, grid=3, seed=5, fill="blur")
    orders = {
        "own": patch_order(maps["student"], 3),
        "teacher": patch_order(maps["teacher"], 3),
        "random": random_order(N, 9, 5),
    }
    for model, curves, own in ((pair.student, cross.student, "own"), (pair.teacher, cross.teacher, "teacher")):
        for name, curve in curves.items():
            order = orders[own if name == "own" else name]
            want = flip_curve(model, images, order, target, pair.preprocessing, fill="blur")
            np.testing.assert_array_equal(curve.outputs, want.outputs)
    assert list(cross.student) == ["own", "teacher", "random"]
    assert list(cross.teacher) == ["own", "random"]
    teacher_order, own = cross.student["teacher"].auc, cross.student["own"].auc
    difference = paired_bootstrap(teacher_order, own)
    assert cross.difference.mean == pytest.approx(difference.mean)
    assert cross.difference.low == pytest.approx(difference.low, abs=0.05 * abs(difference.high - difference.low))
    random = cross.student["random"].auc
    if random.mean() > own.mean():
        want_ratio = (random.mean() - teacher_order.mean()) / (random.mean() - own.mean())
        assert cross.ratio.mean == pytest.approx(want_ratio)
    np.testing.assert_array_equal(
        cross.agreement("teacher"), cross.student["teacher"].predictions == cross.teacher["own"].predictions
    )
    np.testing.assert_array_equal(
        cross.agreement("random"), cross.student["random"].predictions == cross.teacher["random"].predictions
    )
    with pytest.raises(UnknownNameError, match="order that both models were flipped in 'own'"):
        cross.agreement("own")
    assert "CrossFlip(ratio" in repr(cross)


def test_known_teacher_curves_and_an_own_target_are_taken(
    pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target
) -> None:
    first = cross_flip(pair, images, maps["teacher"], maps["student"], target, grid=2)
    swapped = Target(target.contrast, target.label)
    again = cross_flip(
        pair, images, maps["teacher"], maps["student"], target, grid=2, teacher=first.teacher, student_target=swapped
    )
    assert again.teacher is first.teacher
    for name, curve in again.student.items():
        np.testing.assert_allclose(curve.outputs, -first.student[name].outputs)


def test_equal_maps_have_ratio_one_and_difference_zero(
    pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target
) -> None:
    pair = pair.with_student(pair.teacher)  # one that has learned, so that its own order beats chance
    own = gradient_maps(pair, images, target)
    cross = cross_flip(pair, images, own, own.clone(), target, grid=4)
    np.testing.assert_array_equal(cross.student["own"].outputs, cross.student["teacher"].outputs)
    assert (cross.difference.mean, cross.difference.low, cross.difference.high) == (0, 0, 0)
    assert cross.ratio.mean == 1
    assert (cross.ratio.low, cross.ratio.high) == (pytest.approx(1), pytest.approx(1))


def gradient_maps(pair: ModelPair, x: Tensor, target: Target) -> Tensor:
    """Input times gradient of the student: an order better than chance."""
    x = x.clone().requires_grad_()
    target.select(pair.student.eval()(x)).sum().backward()
    assert x.grad is not None
    return (x * x.grad).sum(dim=1).detach()


def test_the_same_student_as_teacher_agrees_everywhere(
    pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target
) -> None:
    twin = pair.with_student(pair.teacher)
    cross = cross_flip(twin, images, maps["teacher"], maps["student"], target, grid=3)
    assert (cross.agreement("teacher") == 1).all()
    assert (cross.agreement("random") == 1).all()


def test_undefined_maps_are_counted(pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target) -> None:
    teacher, student = maps["teacher"].clone(), maps["student"].clone()
    teacher[0], student[0], student[1] = torch.nan, 1.0, 1.0
    cross = cross_flip(pair, images, teacher, student, target, grid=3)
    assert (cross.ratio.n, cross.ratio.nan) == (N - 2, 2)
    assert (cross.difference.n, cross.difference.nan) == (N - 2, 2)
    table = curve_table([cross])
    counts = table.groupby(["model", "order", "measure"])["nan"].unique().map(list)
    assert counts["student", "own", "difference"] == [2]
    assert counts["student", "teacher", "unchanged"] == [1]
    assert counts["student", "teacher", "with teacher"] == [1]
    assert counts["student", "random", "difference"] == [0]


@pytest.mark.parametrize("option", [{"mode": "insertion"}, {"first": "least"}])
def test_the_direction_is_not_an_option(
    pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target, option: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="always removes the most relevant patches first"):
        cross_flip(pair, images, maps["teacher"], maps["student"], target, **option)


def test_one_table_of_curves(pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target) -> None:
    flips = [cross_flip(pair, images, maps["teacher"], m, target, grid=2) for m in maps.values()]
    table = curve_table(flips, "kd", "BIG")
    assert list(table.columns) == ["model", "order", "measure", "fill", "fraction", "mean", "low", "high", "n", "nan"]
    assert set(map(tuple, table[["model", "order", "measure"]].to_numpy())) == {
        *((m, o, measure) for m in ("BIG", "kd") for o in ("own", "random") for measure in ("difference", "unchanged")),
        *(("kd", "teacher", measure) for measure in ("difference", "unchanged", "with teacher")),
        ("kd", "random", "with teacher"),
    }
    assert len(table) == 12 * 5
    own = table[(table["model"] == "kd") & (table["order"] == "own") & (table["measure"] == "difference")]
    stacked = np.stack([flip.student["own"].outputs for flip in flips])
    np.testing.assert_allclose(own["mean"], stacked.mean(axis=(0, 1)))
    assert (own["n"] == 2 * N).all()
    assert "BIG" not in set(curve_table(flips, "kd", None)["model"])


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
@settings(deadline=None, max_examples=15)
def test_the_ratio_is_free_of_scale_and_offset(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    own, teacher, random = rng.normal(0, 0.3, (3, 30)) + np.array([[0.0], [0.4], [1.0]])
    one = cross_ratio(own, teacher, random, resamples=500)
    want = (random - teacher).mean() / (random - own).mean()
    assert one.mean == pytest.approx(want)
    assert one.low <= one.mean <= one.high
    other = cross_ratio(*(scale * v + shift for v in (own, teacher, random)), resamples=500)
    assert (other.mean, other.low, other.high) == (
        pytest.approx(one.mean),
        pytest.approx(one.low),
        pytest.approx(one.high),
    )
    assert cross_ratio(own, own, random, resamples=50).mean == 1
    assert cross_ratio(own, random, random, resamples=50).mean == 0


def test_the_ratio_is_undefined_where_the_own_order_is_no_better_than_chance() -> None:
    own, teacher = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 0.0])
    worse = cross_ratio(own, teacher, own - 0.1)
    assert math.isnan(worse.mean)
    assert math.isnan(worse.low)
    assert worse.n == 3
    noisy = cross_ratio([0.0, 0.0, 0.0, 0.0], [0.0] * 4, [1.0, -0.8, 0.9, -0.9])
    assert noisy.mean == 1
    assert math.isnan(noisy.low)
    assert math.isnan(noisy.high)


def test_an_image_that_lacks_a_curve_is_left_out_of_the_ratio() -> None:
    rng = np.random.default_rng(0)
    own, teacher, random = rng.random((3, 2, 20)) + np.array([0, 0.5, 1.0])[:, None, None]
    own[0, 3], teacher[1, 4], random[1, 5] = np.nan, np.nan, np.nan
    ratio = cross_ratio(own, teacher, random)
    assert (ratio.n, ratio.nan) == (2 * 17, 3)
    kept = np.delete(np.arange(20), [3, 4, 5])
    assert ratio.mean == pytest.approx((random - teacher)[:, kept].mean() / (random - own)[:, kept].mean())
    nothing = cross_ratio([np.nan], [1.0], [2.0])
    assert math.isnan(nothing.mean)
    assert (nothing.n, nothing.nan) == (0, 1)
    single = cross_ratio([1.0], [1.5], [2.0])
    assert single.mean == 0.5
    assert math.isnan(single.low)


def test_the_ratios_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        own, teacher, random = rng.normal(0, 0.3, (3, 60)) + np.array([[0.0], [0.4], [1.0]])
        interval = cross_ratio(own, teacher, random, seed=seed, resamples=400)
        covered += interval.low <= 0.6 <= interval.high
    assert 87 <= covered <= 100


def test_a_band_is_the_bootstrap_of_each_point() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 40, 4)) * np.array([1, 2, 0.5, 0])
    values[0, 2], values[1, 7] = np.nan, np.nan
    band = curve_band(values, resamples=4000)
    for point, row in enumerate(band.itertuples()):
        want = mean_interval(values[..., point], resamples=4000)
        assert (row.mean, row.n, row.nan) == (pytest.approx(want.mean, abs=1e-12), want.n, want.nan)
        width = want.high - want.low
        assert row.low == pytest.approx(want.low, abs=0.06 * width + 1e-12)
        assert row.high == pytest.approx(want.high, abs=0.06 * width + 1e-12)
    assert (band["low"] <= band["mean"]).all()
    assert (band["mean"] <= band["high"]).all()


def test_a_band_without_values_is_undefined_and_counted() -> None:
    band = curve_band(np.full((3, 2), np.nan))
    assert band["mean"].isna().all()
    assert band["low"].isna().all()
    assert list(band["n"]) == [0, 0]
    assert list(band["nan"]) == [3, 3]
    one = curve_band([[0.5, 0.25]])
    assert list(one["mean"]) == [0.5, 0.25]
    assert one["low"].isna().all()
    with pytest.raises(DataError, match=r"must be \(N, T\) or \(S, N, T\), got \(3,\)"):
        curve_band([1.0, 2.0, 3.0])


def test_orders_by_name(pair: ModelPair, images: Tensor, maps: dict[str, Tensor], target: Target) -> None:
    curves = flip_orders(pair.student, images, maps, target, pair.preprocessing, grid=2, measure="probability")
    assert list(curves) == ["teacher", "student"]
    assert all(curve.measure == "probability" for curve in curves.values())
    assert isinstance(CrossFlip(curves | {"own": curves["student"], "random": curves["teacher"]}, {}), CrossFlip)


def test_one_image_gives_no_interval() -> None:
    one = np.full((3, 4), np.nan)
    one[:, 1] = (0.2, 0.3, 0.25)
    ratio = cross_ratio(one, one + 0.1, one + 0.4)
    assert ratio.mean == pytest.approx(0.75)
    assert np.isnan([ratio.low, ratio.high]).all()
    band = curve_band(one[:, :, None])
    assert band.loc[0, "mean"] == pytest.approx(0.25)
    assert band.loc[0, ["low", "high"]].isna().all()

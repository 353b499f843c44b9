from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.similarity.localisation import (
    LOCALISATIONS,
    localisation_auc,
    pointing_game,
    relevance_mass,
    topk_intersection,
)

quick = settings(deadline=None, max_examples=25)
ALL = sorted(LOCALISATIONS)
ORDERED = ["auc", "pointing", "topk"]


def drawn(seed: int, n: int = 4, side: int = 6, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Maps, with equal values where `ties`, and masks of between 1 and all but one pixel."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((n, side, side + 1))
    masks = rng.random(maps.shape) < rng.uniform(0.1, 0.9, (n, 1, 1))
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    return (np.round(maps) if ties else maps), masks


# Slow twins: one image, plain loops over Python floats.


def twin_mass(r: list[float], inside: list[bool]) -> float:
    total = math.fsum(max(v, 0.0) for v in r)
    return math.fsum(max(v, 0.0) for v, m in zip(r, inside) if m) / total if total else math.nan


def twin_absolute(r: list[float], inside: list[bool]) -> float:
    return twin_mass([abs(v) for v in r], inside)


def twin_net(r: list[float], inside: list[bool]) -> float:
    return math.fsum(v for v, m in zip(r, inside) if m) / math.fsum(map(abs, r))


def twin_pointing(r: list[float], inside: list[bool]) -> float:
    best = [m for v, m in zip(r, inside) if v == max(r)]
    return sum(best) / len(best)


def twin_topk(r: list[float], inside: list[bool]) -> float:
    """The mean over many random orders of the pixels, of which ties keep the first: no closed form."""
    k, n = sum(inside), len(r)
    orders = [np.random.default_rng(i).permutation(n) for i in range(4000 if len(set(r)) < n else 1)]
    hits = [sum(inside[i] for i in sorted(order, key=lambda i: -r[i])[:k]) / k for order in orders]
    return math.fsum(hits) / len(hits)


def twin_auc(r: list[float], inside: list[bool]) -> float:
    ins, out = ([v for v, m in zip(r, inside) if m is want] for want in (True, False))
    return math.fsum((a > b) + (a == b) / 2 for a in ins for b in out) / (len(ins) * len(out))


TWINS: dict[str, Callable[[list[float], list[bool]], float]] = {
    "mass": twin_mass,
    "absolute_mass": twin_absolute,
    "net_mass": twin_net,
    "pointing": twin_pointing,
    "topk": twin_topk,
    "auc": twin_auc,
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ties", [False, True])
def test_scores_equal_their_slow_twins(name: str, ties: bool) -> None:
    maps, masks = drawn(3, ties=ties)
    want = [TWINS[name](r.ravel().tolist(), m.ravel().tolist()) for r, m in zip(maps, masks)]
    tolerance = 0.02 if name == "topk" and ties else 1e-12
    np.testing.assert_allclose(LOCALISATIONS[name](maps, masks), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("ties", [False, True])
def test_the_auc_is_scikit_learns(ties: bool) -> None:
    maps, masks = drawn(5, n=10, ties=ties)
    want = [roc_auc_score(m.ravel(), r.ravel()) for r, m in zip(maps, masks)]
    np.testing.assert_allclose(localisation_auc(maps, masks), want, rtol=0, atol=1e-12)


def test_a_tie_at_the_kth_place_shares_what_is_left() -> None:
    maps = np.array([[[3.0, 1.0, 1.0, 1.0, 0.0]]])
    masks = np.array([[[True, True, False, False, False]]])
    # One place is left for three equal pixels, one of which lies inside.
    assert topk_intersection(maps, masks) == pytest.approx([(1 + 1 / 3) / 2])
    assert pointing_game(1 - maps.clip(0, 1), masks) == pytest.approx([0.0])
    assert pointing_game(maps.clip(0, 1), masks) == pytest.approx([0.5])


def test_the_whole_score_is_reached_where_all_relevance_lies_inside_and_none_where_it_lies_outside() -> None:
    _, masks = drawn(1)
    inside = np.where(masks, 1 + np.random.default_rng(0).random(masks.shape), 0.0)
    for name in ALL:
        np.testing.assert_allclose(LOCALISATIONS[name](inside, masks), 1)
        if name != "topk":  # of a mask larger than what lies outside it, some top pixels are always inside
            np.testing.assert_allclose(LOCALISATIONS[name](inside, ~masks), 0)


def test_the_tolerance_is_a_distance_in_pixels() -> None:
    masks = np.zeros((1, 9, 9), dtype=bool)
    masks[0, 4, 4] = True
    for row, column in ((4, 6), (5, 5), (7, 8)):
        maps = np.zeros((1, 9, 9))
        maps[0, row, column] = 1
        distance = math.hypot(row - 4, column - 4)
        assert pointing_game(maps, masks) == 0
        assert pointing_game(maps, masks, tolerance=distance - 0.01) == 0
        assert pointing_game(maps, masks, tolerance=distance) == 1
        assert np.isnan(pointing_game(maps, masks, tolerance=6)).all()  # then every pixel is a hit


@pytest.mark.parametrize("name", ALL)
def test_what_has_no_score_is_nan_and_leaves_the_others_alone(name: str) -> None:
    maps, masks = drawn(2, n=7)
    want = LOCALISATIONS[name](maps, masks)
    maps[1], maps[2, 3, 3], maps[3, 0, 0] = 0, np.nan, np.inf
    masks[4], masks[5] = False, True
    scores = LOCALISATIONS[name](maps, masks)
    assert np.isnan(scores).tolist() == [False, True, True, True, True, True, False]
    np.testing.assert_array_equal(scores[[0, 6]], want[[0, 6]])
    np.testing.assert_array_equal(np.isnan(LOCALISATIONS[name].chance(maps, masks)), np.isnan(scores))


def test_a_constant_map_has_mass_but_no_order_and_a_negative_one_no_positive_part() -> None:
    masks = drawn(2)[1]
    flat = np.ones(masks.shape)
    area = masks.mean((1, 2))
    np.testing.assert_allclose(relevance_mass(flat, masks), area)
    np.testing.assert_allclose(relevance_mass(-flat, masks, "absolute"), area)
    np.testing.assert_allclose(relevance_mass(-flat, masks, "net"), -area)
    assert np.isnan(relevance_mass(-flat, masks)).all()
    for name in ORDERED:
        assert np.isnan(LOCALISATIONS[name](flat, masks)).all()


@pytest.mark.parametrize("name", ALL)
def test_chance_is_the_mean_over_orders_of_the_pixels(name: str) -> None:
    """2000 orders of one skewed map: the mean lies within 4 standard errors of the stated level."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30) ** 3
    maps = np.array([rng.permutation(values) for _ in range(2000)]).reshape(-1, 5, 6)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[:, 1:3, 2:6] = True
    scores = LOCALISATIONS[name](maps, masks)
    chance = LOCALISATIONS[name].chance(maps, masks)
    np.testing.assert_allclose(chance, chance[0])
    assert abs(scores.mean() - chance[0]) < 4 * scores.std() / math.sqrt(len(scores))


@quick
@given(st.integers(0, 2**32 - 1), st.floats(1e-200, 1e200), st.booleans())
def test_scores_lie_in_their_range_whatever_the_scale(seed: int, scale: float, ties: bool) -> None:
    maps, masks = drawn(seed, ties=ties)
    for name in ALL:
        scores = LOCALISATIONS[name](maps, masks)
        defined = scores[~np.isnan(scores)]
        low, high = LOCALISATIONS[name].range
        assert ((defined >= low) & (defined <= high)).all()
        np.testing.assert_allclose(LOCALISATIONS[name](scale * maps, masks), scores, rtol=1e-9, atol=1e-15)


@quick
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_scores_do_not_depend_on_the_order_of_pixels_or_images(seed: int, ties: bool) -> None:
    maps, masks = drawn(seed, ties=ties)
    rng = np.random.default_rng(seed)
    images, pixels = rng.permutation(len(maps)), rng.permutation(maps[0].size)
    moved, hidden = (v.reshape(len(v), -1)[images][:, pixels].reshape(v.shape) for v in (maps, masks))
    for name in ALL:
        np.testing.assert_allclose(
            LOCALISATIONS[name](moved, hidden), LOCALISATIONS[name](maps, masks)[images], rtol=1e-12, atol=1e-15
        )


@quick
@given(st.integers(0, 2**32 - 1))
def test_mask_and_complement_share_the_whole(seed: int) -> None:
    maps, masks = drawn(seed)
    for name in ("absolute_mass", "pointing", "auc"):
        both = LOCALISATIONS[name](maps, masks) + LOCALISATIONS[name](maps, ~masks)
        np.testing.assert_allclose(both, 1, rtol=1e-12)


@quick
@given(st.integers(0, 2**32 - 1))
def test_net_relevance_turns_with_the_sign_and_is_bounded_by_the_magnitudes(seed: int) -> None:
    maps, masks = drawn(seed)
    net, size = (relevance_mass(maps, masks, part) for part in ("net", "absolute"))
    np.testing.assert_allclose(relevance_mass(-maps, masks, "net"), -net, rtol=1e-12, atol=1e-15)
    assert (np.abs(net) <= size + 1e-12).all()


def test_tensors_are_taken_too_and_no_input_is_changed() -> None:
    maps, masks = drawn(4)
    before = maps.copy(), masks.copy()
    tensors = torch.from_numpy(maps).requires_grad_(), torch.from_numpy(masks)
    for score in LOCALISATIONS.values():
        np.testing.assert_array_equal(score(*tensors), score(maps, masks))
        np.testing.assert_array_equal(score.chance(*tensors), score.chance(maps, masks))
    np.testing.assert_array_equal(pointing_game(*tensors, tolerance=1), pointing_game(maps, masks, tolerance=1))
    np.testing.assert_array_equal(maps, before[0])
    np.testing.assert_array_equal(masks, before[1])


def test_no_images_give_no_scores() -> None:
    for score in LOCALISATIONS.values():
        assert score(np.zeros((0, 4, 4)), np.zeros((0, 4, 4), dtype=bool)).shape == (0,)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (
            np.ones((2, 1, 4, 4)),
            np.ones((2, 4, 4), bool),
            r"the shape \(N, H, W\), got \(2, 1, 4, 4\): sum over",
        ),
        (np.ones((2, 4, 4)), np.ones((2, 4, 5), bool), r"of shape \(2, 4, 4\) but masks of shape \(2, 4, 5\)"),
        (np.ones((2, 4, 4)), np.ones((4, 4), bool), r"masks must have the shape \(N, H, W\), got \(4, 4\)"),
        (np.ones((2, 4, 4)), np.ones((2, 4, 4)), r"masks must be boolean, got float64.*masks > 0"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, maps: np.ndarray, masks: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LOCALISATIONS[name](maps, masks)


def test_unknown_options_are_refused() -> None:
    maps, masks = drawn(0)
    with pytest.raises(UnknownNameError, match="unknown part of the relevance 'positiv': did you mean 'positive'"):
        relevance_mass(maps, masks, "positiv")
    for wrong in (-1, math.nan):
        with pytest.raises(ConfigError, match="tolerance must be at least 0 pixels, got"):
            pointing_game(maps, masks, tolerance=wrong)

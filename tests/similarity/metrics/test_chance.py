from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from xaibench.errors import UnknownNameError
from xaibench.similarity.metrics.chance import (
    correlation_chance,
    cosine_chance,
    iou_chance,
    kendall_chance,
    overlap_chance,
    pairwise_chance,
    rank_biased_chance,
    rank_chance,
    simulated_chance,
)
from xaibench.similarity.metrics.table import METRICS, SIGNS, kendall, with_sign

PAIRS = 3000
SIMULATED = dict.fromkeys(("ssim", "transport_positive", "transport_negative"), SIGNS)
SIMULATED |= dict.fromkeys(("sign_agreement", "pairwise_rank_agreement", "rank_biased_overlap"), ("positive",))


@pytest.mark.parametrize("grid", [4, 7])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", METRICS)
def test_chance_is_that_of_random_maps(name: str, sign: str, grid: int) -> None:
    pairs = PAIRS // 4 if name in ("ssim", "transport_positive", "transport_negative") else PAIRS
    maps = np.random.default_rng(7).standard_normal((2, pairs, grid, grid))
    scores = METRICS[name](*with_sign(maps, sign))
    mean, sd = METRICS[name].chance(grid, sign)
    if name == "transport_negative" and sign != "signed":
        assert np.isnan([mean, sd, *scores]).all()
        return
    error = scores.std() / np.sqrt(pairs)
    if sign in SIMULATED.get(name, ()):
        error *= (1 + pairs / 1000) ** 0.5  # a simulated level has an error of its own
    assert np.isfinite(scores).all()
    assert abs(scores.mean() - mean) <= 4 * error + 1e-12
    assert scores.std() == pytest.approx(sd, rel=0.12, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_random_pairs_fall_inside_their_chance_interval(name: str) -> None:
    # As a report shows it: the mean over n random pairs within 2 SD / sqrt(n), in all but about 1 of 20 draws.
    pairs, draws = (20, 40)
    maps = np.random.default_rng(9).standard_normal((2, pairs * draws, 6, 6))
    mean, sd = METRICS[name].chance(6)
    means = METRICS[name](*maps).reshape(draws, pairs).mean(axis=1)
    assert (np.abs(means - mean) <= 2 * sd / np.sqrt(pairs)).sum() >= 0.85 * draws


@pytest.mark.parametrize("sign", ["absolute", "positive"])
def test_chance_of_tiny_maps_leaves_undefined_ones_out(sign: str) -> None:
    maps = np.random.default_rng(8).standard_normal((2, 20_000, 2, 2))
    for name in ("cosine", "kendall", "pairwise_rank_agreement", "feature_agreement"):
        scores = METRICS[name](*with_sign(maps, sign))
        assert np.isnan(scores).any() == (sign == "positive")
        mean, sd = METRICS[name].chance(2, sign)
        assert np.nanmean(scores) == pytest.approx(mean, abs=0.025)
        assert np.nanstd(scores) == pytest.approx(sd, abs=0.025)


def test_the_known_numbers_at_14_by_14() -> None:
    assert METRICS["cosine"].chance(14) == (0.0, 1 / 14)
    assert METRICS["cosine"].chance(14, "absolute")[0] == pytest.approx(0.64, abs=0.005)
    assert METRICS["cosine"].chance(14, "positive")[0] == pytest.approx(0.32, abs=0.005)
    assert METRICS["topk_iou"].chance(14)[0] == pytest.approx(0.055, abs=0.001)
    assert METRICS["topk_overlap"].chance(14)[0] == pytest.approx(0.10, abs=0.003)
    assert METRICS["sign_agreement"].chance(14) == (0.5, 0.5 / 14)
    assert METRICS["kendall"].chance(14) == (0.0, pytest.approx(np.sqrt(2 * 397 / (9 * 196 * 195))))
    assert METRICS["pairwise_rank_agreement"].chance(14)[0] == 0.5
    assert METRICS["rank_agreement"].chance(14)[0] == pytest.approx(1 / 196)
    assert METRICS["signed_rank_agreement"].chance(14)[0] == pytest.approx(0.5 / 196)
    assert METRICS["signed_rank_agreement"].chance(14, "absolute")[0] == pytest.approx(1 / 196)
    assert METRICS["topk_sign_agreement"].chance(14)[0] == METRICS["feature_agreement"].chance(14)[0] / 2


def test_cosine_of_many_cells_approaches_two_over_pi() -> None:
    assert cosine_chance(10**6, "absolute")[0] == pytest.approx(2 / np.pi, rel=1e-5)
    assert cosine_chance(10**4, "positive")[0] == pytest.approx(1 / np.pi, rel=1e-3)


@pytest.mark.parametrize("kept", [0.5, 1.0])
@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 3), (4, 4)])
def test_counts_over_every_order_and_every_agreement_of_signs(n: int, k: int, kept: float) -> None:
    orders = np.array(list(permutations(range(n))))[:, None, :k]
    agreeing = np.array(list(product((0, 1), repeat=k))) if kept < 1 else np.ones((1, k))
    shared, placed = ((same * agreeing).mean(axis=2) for same in (orders < k, orders == np.arange(k)))
    assert overlap_chance(n, k, kept) == pytest.approx((shared.mean(), shared.std()))
    assert rank_chance(n, k, kept) == pytest.approx((placed.mean(), placed.std()))


@pytest.mark.parametrize("sign", SIGNS)
def test_kendall_over_every_order_and_every_choice_of_zeros(sign: str) -> None:
    orders = np.array(list(permutations(range(1, 5))), dtype=float)
    positive = np.array(list(product((0, 1), repeat=4))) if sign == "positive" else np.ones((1, 4))
    maps = (orders[:, None] * positive).reshape(-1, 4)
    one = np.repeat(maps, len(maps), axis=0)[:, None]
    scores = kendall(one, np.tile(maps, (len(maps), 1))[:, None])
    assert (np.nanmean(scores), np.nanstd(scores)) == pytest.approx(kendall_chance(4, sign), abs=1e-12)


def test_smallest_maps() -> None:
    assert cosine_chance(1, "signed") == (0.0, 1.0)
    assert cosine_chance(1, "absolute") == pytest.approx((1.0, 0.0), abs=1e-7)
    for undefined in (
        correlation_chance(1),
        kendall_chance(1),
        pairwise_chance(1),
        iou_chance(1, 1),
        overlap_chance(1, 1),
        rank_chance(1, 1),
        rank_biased_chance(1),
    ):
        assert np.isnan(undefined).all()
    assert correlation_chance(2) == kendall_chance(2) == (0.0, 1.0)
    assert iou_chance(4, 1) == pytest.approx((0.25, np.sqrt(0.25 * 0.75)))
    assert np.isnan(METRICS["ssim"].chance(2)).all()


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("sign", SIGNS)
def test_maps_of_one_cell_have_the_chance_of_their_scores(name: str, sign: str) -> None:
    mean, sd = METRICS[name].chance(1, sign)
    assert np.isnan(mean) == np.isnan(sd) == (name not in ("cosine", "sign_agreement"))


def test_simulations_are_made_once() -> None:
    before = simulated_chance.cache_info().misses
    first = METRICS["ssim"].chance(5, "absolute")
    assert METRICS["ssim"].chance(5, "absolute") == first
    assert simulated_chance.cache_info().misses == before + 1


def test_unknown_sign_mode() -> None:
    with pytest.raises(UnknownNameError, match="unknown sign mode 'abs'"):
        METRICS["pearson"].chance(8, "abs")

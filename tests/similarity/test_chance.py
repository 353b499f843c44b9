from __future__ import annotations

import numpy as np
import pytest

from xaibench.errors import UnknownNameError
from xaibench.similarity.chance import correlation_chance, cosine_chance, overlap_chance
from xaibench.similarity.heatmaps import METRICS, SIGNS, with_sign

PAIRS = 3000


@pytest.mark.parametrize("grid", [4, 7])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", METRICS)
def test_chance_is_that_of_random_maps(name: str, sign: str, grid: int) -> None:
    pairs = PAIRS // 4 if name == "ssim" else PAIRS
    maps = np.random.default_rng(7).standard_normal((2, pairs, grid, grid))
    scores = METRICS[name](*with_sign(maps, sign))
    mean, sd = METRICS[name].chance(grid, sign)
    error = scores.std() / np.sqrt(pairs)
    if name == "ssim":
        error *= (1 + pairs / 1000) ** 0.5  # its own chance level is simulated with 1000 pairs
    assert np.isfinite(scores).all()
    assert abs(scores.mean() - mean) <= 4 * error + 1e-12
    assert scores.std() == pytest.approx(sd, rel=0.12)


@pytest.mark.parametrize("sign", ["absolute", "positive"])
def test_chance_of_tiny_maps_leaves_undefined_ones_out(sign: str) -> None:
    maps = np.random.default_rng(8).standard_normal((2, 20_000, 2, 2))
    scores = METRICS["cosine"](*with_sign(maps, sign))
    assert np.isnan(scores).any() == (sign == "positive")
    mean, sd = METRICS["cosine"].chance(2, sign)
    assert np.nanmean(scores) == pytest.approx(mean, abs=0.01)
    assert np.nanstd(scores) == pytest.approx(sd, abs=0.01)


def test_the_known_numbers_at_14_by_14() -> None:
    assert METRICS["cosine"].chance(14) == (0.0, 1 / 14)
    assert METRICS["cosine"].chance(14, "absolute")[0] == pytest.approx(0.64, abs=0.005)
    assert METRICS["cosine"].chance(14, "positive")[0] == pytest.approx(0.32, abs=0.005)
    assert METRICS["topk_iou"].chance(14)[0] == pytest.approx(0.055, abs=0.001)
    assert METRICS["sign_agreement"].chance(14) == (0.5, 0.5 / 14)


def test_cosine_of_many_cells_approaches_two_over_pi() -> None:
    assert cosine_chance(10**6, "absolute")[0] == pytest.approx(2 / np.pi, rel=1e-5)
    assert cosine_chance(10**4, "positive")[0] == pytest.approx(1 / np.pi, rel=1e-3)


def test_smallest_maps() -> None:
    assert cosine_chance(1, "signed") == (0.0, 1.0)
    assert cosine_chance(1, "absolute") == pytest.approx((1.0, 0.0), abs=1e-7)
    assert np.isnan(correlation_chance(1)).all()
    assert correlation_chance(2) == (0.0, 1.0)
    assert overlap_chance(4, 1) == pytest.approx((0.25, np.sqrt(0.25 * 0.75)))
    assert np.isnan(METRICS["ssim"].chance(2)).all()


def test_unknown_sign_mode() -> None:
    with pytest.raises(UnknownNameError, match="unknown sign mode 'abs'"):
        METRICS["pearson"].chance(8, "abs")

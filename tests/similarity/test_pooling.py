from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.similarity.intervals import bootstrap_mean
from xaibench.similarity.metrics.table import METRICS, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted
from xaibench.similarity.pooling import default_grids, pooling_curve

COLUMNS = ["grid", "mean", "low", "high", "n", "nan", "chance", "chance_sd", "mismatched", "shifted"]


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    teacher, noise = np.random.default_rng(0).standard_normal((2, 20, 12, 12))
    return teacher, teacher + noise


def test_default_grids_are_halves_of_the_image() -> None:
    assert default_grids(28, 28) == (3, 7, 14, 28)
    assert default_grids(32, 40) == (2, 4, 8, 16, 32)
    assert default_grids(224, 224) == (3, 7, 14, 28)
    assert default_grids(2, 2) == (2,)


@pytest.mark.parametrize(("metric", "sign"), [("cosine", "signed"), ("rank_biased_overlap", "absolute")])
def test_each_row_is_the_score_on_its_grid(maps: tuple[np.ndarray, np.ndarray], metric: str, sign: str) -> None:
    teacher, student = maps
    curve = pooling_curve(teacher, student, metric, grids=(12, 4), sign=sign, seed=3)
    assert list(curve.columns) == COLUMNS
    assert list(curve["grid"]) == [12, 4]
    for row in curve.itertuples():
        a, b = (with_sign(pool(x, row.grid), sign) for x in maps)
        interval = bootstrap_mean(METRICS[metric](a, b), seed=3)
        assert (row.mean, row.low, row.high, row.n, row.nan) == (
            interval.mean,
            interval.low,
            interval.high,
            interval.n,
            interval.nan,
        )
        assert (row.chance, row.chance_sd) == METRICS[metric].chance(row.grid, sign)
        assert row.mismatched == pytest.approx(METRICS[metric](a, b[derangement(20, 3)]).mean())
        assert row.shifted == pytest.approx(METRICS[metric](a, shifted(b, 3)).mean())


def test_a_student_like_its_teacher_is_one_on_every_grid(maps: tuple[np.ndarray, np.ndarray]) -> None:
    curve = pooling_curve(torch.tensor(maps[0]), maps[0], "kendall")
    assert list(curve["grid"]) == [3, 6, 12]
    assert (curve[["mean", "low", "high"]] == 1).all(axis=None)
    assert (curve["mismatched"].abs() < 0.4).all()


def test_undefined_scores_are_counted_and_left_out(maps: tuple[np.ndarray, np.ndarray]) -> None:
    teacher, student = maps
    teacher[:3] = np.nan
    curve = pooling_curve(teacher, student, "pearson", grids=[1, 4])
    assert curve["nan"].tolist() == [20, 3]
    assert curve["n"].tolist() == [0, 17]
    assert curve.loc[0, ["mean", "low", "high", "chance", "mismatched", "shifted"]].isna().all()


def test_one_image_has_no_interval_and_no_other_image(maps: tuple[np.ndarray, np.ndarray]) -> None:
    curve = pooling_curve(maps[0][:1], maps[1][:1], "cosine", grids=[4])
    assert curve.loc[0, ["low", "high", "mismatched"]].isna().all()
    assert np.isfinite(curve.loc[0, "mean"])


def test_what_cannot_be_scored_is_refused(maps: tuple[np.ndarray, np.ndarray]) -> None:
    teacher, student = maps
    with pytest.raises(UnknownNameError, match="unknown metric 'cosin': did you mean 'cosine'"):
        pooling_curve(teacher, student, "cosin")
    with pytest.raises(UnknownNameError, match="unknown sign mode"):
        pooling_curve(teacher, student, "cosine", sign="both")
    with pytest.raises(DataError, match=r"shapes \(20, 12, 12\) and \(19, 12, 12\): explain the same images"):
        pooling_curve(teacher, student[:19], "cosine")
    with pytest.raises(DataError, match=r"shapes \(0, 12, 12\) and"):
        pooling_curve(teacher[:0], student[:0], "cosine")
    with pytest.raises(ConfigError, match=r"grids must be given once each, at least one, got \[4, 4\]"):
        pooling_curve(teacher, student, "cosine", grids=(4, 4))
    with pytest.raises(ConfigError, match="grid 13 does not fit 12x12 heatmaps"):
        pooling_curve(teacher, student, "cosine", grids=[13])


def test_the_same_seed_gives_the_same_curve(maps: tuple[np.ndarray, np.ndarray]) -> None:
    first, again, other = (pooling_curve(*maps, "ssim", grids=[4, 6], seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["mismatched"] != other["mismatched"]).all()

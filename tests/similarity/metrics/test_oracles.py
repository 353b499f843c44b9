"""Metrics against other libraries, and against values that the methods' own public code gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ot
import pytest
from scipy import stats
from skimage.metrics import structural_similarity
from sklearn.metrics import accuracy_score, jaccard_score
from sklearn.metrics.pairwise import cosine_similarity

from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.metrics.transport import emd

GOLDEN = {
    "cosine": "cosine",
    "pearson": "pearson",
    "spearman": "spearman",
    "kendall": "kendall",
    "ssim": "ssim_2d_maxabs_range2_win7",
    "feature_agreement": "feature_agreement_top6",
    "topk_sign_agreement": "sign_agreement_top6",
    "rank_agreement": "rank_agreement_top6",
    "signed_rank_agreement": "signed_rank_agreement_top6",
    "pairwise_rank_agreement": "pairwise_rank_agreement_abs",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(golden: Path, name: str) -> None:
    maps = np.load(golden / "similarity.npz")
    expected = json.loads((golden / "similarity.json").read_text())[GOLDEN[name]]
    np.testing.assert_allclose(METRICS[name](maps["maps_a"], maps["maps_b"]), expected, rtol=1e-9)


@pytest.mark.parametrize("part", ["positive", "negative"])
def test_golden_distances(golden: Path, part: str) -> None:
    maps = np.load(golden / "similarity.npz")
    expected = json.loads((golden / "similarity.json").read_text())[f"emd_{part}_over_diagonal"]
    np.testing.assert_allclose(emd(maps["maps_a"], maps["maps_b"], part), expected, rtol=1e-9)
    likeness = METRICS[f"transport_{part}"](maps["maps_a"], maps["maps_b"])
    np.testing.assert_allclose(likeness, 1 - np.array(expected), rtol=1e-9)


def cells(side: int) -> np.ndarray:
    return np.array([(i, j) for i in range(side) for j in range(side)], dtype=float)


def top(x: np.ndarray) -> np.ndarray:
    return x >= np.sort(x)[-max(1, round(0.1 * x.size))]


def pot(a: np.ndarray, b: np.ndarray, sign: int) -> float:
    p, q = (np.maximum(sign * x, 0).ravel() for x in (a, b))
    where = cells(len(a))
    return 1 - ot.emd2(p / p.sum(), q / q.sum(), ot.dist(where, where, "euclidean")) / np.hypot(*where[-1])


def scikit_image(a: np.ndarray, b: np.ndarray) -> float:
    x, y = (v / np.abs(v).max() for v in (a, b))
    return structural_similarity(x, y, data_range=2.0, win_size=min(7, len(a) - 1 + len(a) % 2))


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cosine": lambda a, b: cosine_similarity(a.reshape(1, -1), b.reshape(1, -1)).item(),
    "pearson": lambda a, b: stats.pearsonr(a.ravel(), b.ravel()).statistic,
    "spearman": lambda a, b: stats.spearmanr(a.ravel(), b.ravel()).statistic,
    "kendall": lambda a, b: stats.kendalltau(a.ravel(), b.ravel()).statistic,
    "ssim": scikit_image,
    "topk_iou": lambda a, b: jaccard_score(top(a.ravel()), top(b.ravel())),
    "sign_agreement": lambda a, b: accuracy_score(*np.sign([v[(a != 0) | (b != 0)] for v in (a, b)])),
    "feature_agreement": lambda a, b: (top(abs(a.ravel())) & top(abs(b.ravel()))).sum() / top(abs(a.ravel())).sum(),
    "transport_positive": lambda a, b: pot(a, b, 1),
    "transport_negative": lambda a, b: pot(a, b, -1),
}
UNTIED = {"topk_iou", "feature_agreement"}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("side", [5, 8, 14])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_other_libraries(name: str, side: int, ties: bool) -> None:
    a, b = np.random.default_rng(side).standard_normal((2, 6, side, side))
    b += 0.7 * a
    if ties:
        if name in UNTIED:
            pytest.skip("the library knows no ties")
        a, b = np.round(2 * a) / 2, np.round(2 * b) / 2
    expected = [ORACLES[name](x, y) for x, y in zip(a, b)]
    np.testing.assert_allclose(METRICS[name](a, b), expected, rtol=1e-9)

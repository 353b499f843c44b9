"""Which methods differ: every pair of them on the same images, with p-values corrected for the number of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.errors import DataError
from xaibench.similarity.intervals import common_images, curve_interval

__all__ = ["holm", "paired_differences"]

Array = npt.NDArray[np.float64]


def paired_differences(scores: Mapping[str, npt.ArrayLike]) -> pd.DataFrame:
    """One row a pair of methods: a, b, difference, low, high, images, p, p_holm.

    scores  method -> (S, N): the same S training seeds and the same N images for all

    `difference` is the mean of a - b over the seeds and images that all methods have (`common_images`), with the
    interval of `mean_interval`: for one seed it speaks for these two students, for more for the methods. `p` is of
    Wilcoxon's signed-rank test (1945), two-sided, of each image's mean difference over the seeds: images are the unit,
    so that it speaks for these students on other images. `p_holm` is corrected for all pairs (`holm`). A method without
    any score takes no part: its rows are NaN. Raises DataError for scores of different shapes.
    """
    tables = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    if len({table.shape for table in tables.values()}) > 1 or any(table.ndim != 2 for table in tables.values()):
        given = ", ".join(f"{name} {table.shape}" for name, table in tables.items())
        raise DataError(f"methods are compared on the same seeds and images (S, N), got {given}")
    table = pd.DataFrame(list(combinations(tables, 2)), columns=["a", "b"])
    columns = ["difference", "low", "high", "images", "p"]
    table[columns] = np.nan
    defined = [name for name in tables if not np.isnan(tables[name]).all()]
    told = table["a"].isin(defined) & table["b"].isin(defined)
    if told.any():
        gaps: Array = np.stack([tables[a] - tables[b] for a, b in zip(table["a"][told], table["b"][told])], axis=-1)
        seeds = np.array([bool((~np.isnan(gap)).any(axis=0).all()) for gap in gaps])  # that all methods have
        gaps = gaps[seeds][:, common_images(*(tables[name][seeds] for name in defined))]
        mean, low, high, _ = curve_interval(gaps, resamples=10_000)
        tests = [_signed_rank(gaps[..., pair]) for pair in range(gaps.shape[-1])]
        table.loc[told, columns] = np.stack([mean, low, high, np.full(len(mean), gaps.shape[1]), tests], axis=1)
    return table.fillna({"images": 0}).astype({"images": int}).assign(p_holm=holm(table["p"]))


def holm(p: npt.ArrayLike) -> Array:
    """p-values (M,) corrected for M tests, so that one or more false rejections are as rare as in one test.

    The i-th smallest becomes the largest of (M - j + 1) p_j over j <= i, at most 1 (Holm 1979, jstor 4615733). NaN
    stay NaN and do not count.
    """
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    steps = values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _signed_rank(gaps: Array) -> float:
    """p of gaps (S, N), images as the unit; 1 where they are all zero, NaN for none."""
    if not gaps.size:
        return float("nan")
    means = gaps.mean(axis=0)
    if not means.any():
        return 1.0
    from scipy.stats import wilcoxon  # slow to import

    return float(wilcoxon(means).pvalue)

"""Which methods differ: every pair of them on the same images, with p-values corrected for the number of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.errors import DataError
from xaibench.similarity.intervals import common_images, curve_interval
from xaibench.similarity.significance import family_table, signed_rank

__all__ = ["paired_differences"]

Array = npt.NDArray[np.float64]


def paired_differences(scores: Mapping[str, npt.ArrayLike]) -> pd.DataFrame:
    """One row a pair of methods: a, b, difference, low, high, and the columns of `family_table`.

    scores  method -> (S, N): the same S training seeds and the same N images for all

    `difference` is the mean of a - b over the seeds and images that all methods have (`common_images`), with the
    interval of `mean_interval`: for one seed it speaks for these two students, for more for the methods. The test is
    Wilcoxon's signed-rank test, two-sided, of each image's mean difference over the seeds. Its unit is the image, so
    that it speaks for these students on other images, however many seeds there are. A method without any score takes no
    part: its rows are NaN. Raises DataError for scores of different shapes.
    """
    tables = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    if len({table.shape for table in tables.values()}) > 1 or any(table.ndim != 2 for table in tables.values()):
        given = ", ".join(f"{name} {table.shape}" for name, table in tables.items())
        raise DataError(f"methods are compared on the same seeds and images (S, N), got {given}")
    defined = [name for name in tables if not np.isnan(tables[name]).all()]
    seeds = ~np.any([np.isnan(tables[name]).all(axis=1) for name in defined], axis=0)  # that all methods have
    intervals, tests = {}, {pair: signed_rank([], alternative="two-sided") for pair in combinations(tables, 2)}
    told = list(combinations(defined, 2))
    if told and seeds.any():
        images = common_images(*(tables[name][seeds] for name in defined))
        own = {name: tables[name][seeds][:, images] for name in defined}
        gaps: Array = np.stack([own[a] - own[b] for a, b in told])
        means = gaps.mean(axis=1)
        intervals = dict(zip(told, zip(*curve_interval(np.moveaxis(gaps, 0, -1), resamples=10_000)[:3])))
        tests |= {pair: signed_rank(mean, alternative="two-sided") for pair, mean in zip(told, means)}
    rows = [(*pair, *intervals.get(pair, (np.nan, np.nan, np.nan))) for pair in tests]
    table = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high"])
    return table.join(family_table(tests, unit="images").reset_index(drop=True))

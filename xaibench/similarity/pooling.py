"""The score against the grid: how far does likeness depend on the scale at which heatmaps are compared?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.similarity.intervals import bootstrap_mean
from xaibench.similarity.maps import map_size, pool, with_sign
from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.nulls import derangement, shifted
from xaibench.validation import checked

__all__ = ["default_grids", "pooling_curve"]


def default_grids(height: int, width: int) -> tuple[int, ...]:
    """The shorter side halved again and again, what lies in 2..32: 28 -> 3, 7, 14, 28 and 224 -> 3, 7, 14, 28."""
    side = min(height, width)
    halved = [side >> steps for steps in range(side.bit_length())]
    return tuple(sorted(grid for grid in halved if 2 <= grid <= 32))


@checked
def pooling_curve(
    teacher_maps: Any,
    student_maps: Any,
    metric: str,
    grids: Sequence[int] | None = None,
    *,
    sign: str = "signed",
    seed: int = 0,
) -> pd.DataFrame:
    """Score two sets of heatmaps (N, H, W) on several grids.

    metric  a name in METRICS
    grids   cells a side after pooling, in 1..min(H, W); None: `default_grids`
    sign    "signed", "absolute" or "positive", applied after pooling
    seed    of the bootstrap and of the mismatched pairing

    A row a grid: [grid, mean, low, high, n, nan, chance, chance_sd, mismatched, shifted]. mean over the n images with a
    defined score, with its bootstrap 95% interval; nan counts the undefined ones; chance and chance_sd are those of one
    pair of random maps; mismatched is the mean over the student's maps of other images (NaN for a single image),
    shifted that over its own maps mirrored and shifted at random (NaN for a single cell).

    Raises UnknownNameError for a metric or sign mode, DataError for maps that do not match, ConfigError for grids.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    height, width = map_size(teacher_maps)
    n = len(teacher_maps)
    if (n, height, width) != (len(student_maps), *map_size(student_maps)) or n == 0:
        shapes = f"{(n, height, width)} and {(len(student_maps), *map_size(student_maps))}"
        raise DataError(f"teacher's and student's heatmaps have the shapes {shapes}: explain the same images with both")
    chosen = default_grids(height, width) if grids is None else tuple(grids)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"grids must be given once each, at least one, got {list(chosen)}")
    rows = []
    for grid in chosen:
        teacher, student = (with_sign(pool(maps, grid), sign) for maps in (teacher_maps, student_maps))
        score = bootstrap_mean(METRICS[metric](teacher, student), seed=seed)
        mismatched = METRICS[metric](teacher, student[derangement(n, seed)]) if n > 1 else np.array([])
        moved = METRICS[metric](teacher, shifted(student, seed)) if grid > 1 else np.array([])
        nulls = (bootstrap_mean(values, resamples=1).mean for values in (mismatched, moved))
        chance, sd = METRICS[metric].chance(grid, sign)
        rows.append((grid, score.mean, score.low, score.high, score.n, score.nan, chance, sd, *nulls))
    columns = ["grid", "mean", "low", "high", "n", "nan", "chance", "chance_sd", "mismatched", "shifted"]
    return pd.DataFrame.from_records(rows, columns=columns)

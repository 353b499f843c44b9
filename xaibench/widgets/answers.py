"""What is known of one image under one model, or as the mean of several students."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xaibench.figures.gallery import displayed
from xaibench.widgets.live import Map

__all__ = ["Prediction", "Score", "mean_defined", "mean_map"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """Class index a model predicts for one image, with its probability."""

    predicted: int
    confidence: float


@dataclass(frozen=True)
class Score:
    """A student's likeness to the teacher on one image.

    value   NaN where undefined
    chance  mean and SD of two random maps' score
    rank    among the images, 1 is the least alike; NaN where not all images are scored
    nulls   name of a null -> its score on this image ("mismatched images"), where known
    """

    value: float
    chance: tuple[float, float]
    rank: float = math.nan
    nulls: Mapping[str, float] = field(default_factory=dict)


def mean_map(maps: Sequence[Map]) -> Map:
    """Mean over students of R / sum|R|, of those that are defined."""
    shares = displayed(np.stack([one.values for one in maps]))
    defined = shares[~np.isnan(shares).any(axis=(1, 2))]
    if not len(defined):
        return Map(np.full_like(maps[0].values, np.nan), trouble=maps[0].trouble)
    told = f"mean of {len(defined)} students' shares" + f", {len(maps) - len(defined)} undefined" * (
        len(defined) < len(maps)
    )
    return Map(defined.mean(axis=0).astype(np.float32), told)


def mean_defined(values: Sequence[Array]) -> Array:
    """Mean over students, of those that are defined."""
    stacked = np.stack(values)
    count = (~np.isnan(stacked)).sum(axis=0)
    return np.where(count, np.nansum(stacked, axis=0) / np.maximum(count, 1), np.nan)

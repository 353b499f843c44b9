"""Means over images drawn with replacement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from xaibench.similarity.nulls import draws

__all__ = ["resampled_means"]

Array = npt.NDArray[np.float64]

_CHUNK = 4_000_000  # draws held in memory at a time
_REMEMBERED = 2**24  # draws that are remembered at a time, 2 bytes each


def resampled_means(values: Array, seed: int, resamples: int) -> Array:
    """(N, T) -> (resamples, T): means over images drawn with replacement."""
    images, points = values.shape
    counts_of = _remembered_counts if images * resamples <= _REMEMBERED else _counts
    means = np.empty((resamples, points))
    start = 0
    for counts in counts_of(images, seed, resamples, max(1, _CHUNK // max(images, points))):
        means[start : start + len(counts)] = counts @ values / images
        start += len(counts)
    return means


def _counts(images: int, seed: int, resamples: int, step: int) -> Iterator[npt.NDArray[np.integer[Any]]]:
    """How often each image is drawn, (resamples, images), `step` resamples at a time."""
    generator = draws(seed)
    for start in range(0, resamples, step):
        yield generator.multinomial(images, np.full(images, 1 / images), min(step, resamples - start))


@lru_cache(maxsize=2)
def _remembered_counts(images: int, seed: int, resamples: int, step: int) -> tuple[npt.NDArray[np.integer[Any]], ...]:
    """The same for many means over as many images, such as those of a table."""
    return tuple(counts.astype(np.uint16) for counts in _counts(images, seed, resamples, step))

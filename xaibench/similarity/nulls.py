"""What the scores are held against: heatmaps of other images, and shifted ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError, DataError

__all__ = ["derangement", "draws", "shifted"]


def draws(seed: int, *more: int) -> np.random.Generator:
    """NumPy's generator for a seed, or for a place in its stream. Raises ConfigError for a seed below 0."""
    if seed < 0:
        raise ConfigError(f"a seed must be at least 0, got {seed}: choose 0, say")
    return np.random.default_rng((seed, *more) if more else seed)


def derangement(n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """A seeded pairing i -> j(i) != i of n images, each used once: one random cycle through all of them.

    Raises DataError for n < 2, where there is no other image.

    >>> derangement(2)
    array([1, 0])
    """
    if n < 2:
        raise DataError(f"mismatched images need at least 2 images, got {n}: explain more images")
    order = draws(seed).permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def shifted(maps: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.float64]:
    """Maps (N, H, W), each mirrored or not and shifted cyclically by a random number of rows and columns, seeded.

    They keep their smoothness, their zeros and their spread but have lost their place: what unrelated maps of this kind
    score, where cells are not independent of each other (Grad-CAM, patches, empty backgrounds). All shifts, none
    included, and mirrorings are equally likely; image i gets the same one whatever the other images.
    """
    values = np.asarray(maps, dtype=np.float64)
    moved = np.empty_like(values)
    for i, one in enumerate(values):
        draw = draws(seed, i).integers
        one = one[:: 1 - 2 * int(draw(2)), :: 1 - 2 * int(draw(2))]
        moved[i] = np.roll(one, (int(draw(one.shape[0])), int(draw(one.shape[1]))), axis=(0, 1))
    return moved

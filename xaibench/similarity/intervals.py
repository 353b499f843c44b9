"""Means with intervals, over images or seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError, DataError

__all__ = ["Interval", "bootstrap_mean", "bootstrap_seeds", "paired_bootstrap"]

_CHUNK = 4_000_000  # draws held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A mean with its interval: low <= mean <= high over n values; nan more were undefined and left out.

    low and high are NaN where n < 2: one value says nothing about its spread.
    """

    mean: float
    low: float
    high: float
    n: int
    nan: int = 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_mean(values: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Mean and percentile bootstrap interval (Efron 1979) of independent values (N,); NaN are dropped and counted.

    The same seed gives the same interval. Raises ConfigError for a level outside (0, 1) or fewer than one resample,
    DataError for values that are not one-dimensional or are infinite.
    """
    if not 0 < level < 1:
        raise ConfigError(f"confidence level must lie between 0 and 1, got {level}: choose 0.95, say")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}: the default is 10000")
    x = _vector(values)
    kept = x[~np.isnan(x)]
    n, nan = len(kept), int(np.isnan(x).sum())
    if n < 2:
        return Interval(float(kept[0]) if n else float("nan"), float("nan"), float("nan"), n, nan)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = kept[generator.integers(0, n, (rows, n))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(kept.mean())
    return Interval(mean, min(float(low), mean), max(float(high), mean), n, nan)


def paired_bootstrap(
    a: npt.ArrayLike, b: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """Interval of mean(a - b) over pairs (N,): how far a lies above b on the same images or seeds.

    A pair with a NaN on either side is dropped and counted. Raises DataError for vectors of different lengths.
    """
    x, y = _vector(a), _vector(b)
    if len(x) != len(y):
        raise DataError(f"paired values must match one to one, got {len(x)} and {len(y)}: score the same images")
    return bootstrap_mean(x - y, seed=seed, resamples=resamples, level=level)


def _vector(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or np.isinf(x).any():
        what = "infinite values" if x.ndim == 1 else f"shape {x.shape}"
        raise DataError(f"a mean needs a vector of finite values (NaN allowed), got {what}")
    return x


def bootstrap_seeds(values: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Mean and percentile bootstrap interval of scores (S, N): S training seeds, N images, NaN left out and counted.

    Both are resampled, seeds as whole rows and images as whole columns, so the interval speaks of other seeds and other
    images of the same kind. With S = 1 it is the bootstrap over images alone. `n` counts the defined scores. Without
    two images that have one there is no interval (NaN).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2:
        raise DataError(f"scores over seeds and images must be (S, N), got shape {x.shape}")
    if not 0 < level < 1:
        raise ConfigError(f"confidence level must lie between 0 and 1, got {level}: choose 0.95, say")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}: choose 10000, say")
    if np.isinf(x).any():
        raise DataError("a mean needs finite values (NaN allowed), got infinite values")
    defined = ~np.isnan(x)
    n, nan = int(defined.sum()), int((~defined).sum())
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0, nan)
    seeds, images = x.shape
    mean = float(x[defined].mean())
    if defined.any(axis=0).sum() < 2:
        return Interval(mean, float("nan"), float("nan"), n, nan)
    generator = np.random.default_rng(seed)
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    filled = np.where(defined, x, 0.0)
    means = np.empty(resamples)
    step = max(1, _CHUNK // images)
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        columns = generator.multinomial(images, np.full(images, 1 / images), part.stop - start)
        count = ((rows[part] @ defined) * columns).sum(1)
        total = ((rows[part] @ filled) * columns).sum(1)
        means[part] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, min(float(low), mean), max(float(high), mean), n, nan)

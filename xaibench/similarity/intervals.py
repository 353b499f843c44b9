"""Means with 95% intervals, over images, training seeds and subtasks; and the one rule for undefined scores.

Which interval         | it speaks for                                   | it holds the truth (95% are meant)
-----------------------|-------------------------------------------------|-----------------------------------
bootstrap over images  | this student (or this pair) on other images     | .92 of 20 images, .95 from 100 on
t over seeds           | other training seeds of the method              | .95
two-way t, ratios      | other training seeds and other images           | .91 to .98 (3 seeds), .93 to .97
t over subtasks        | other subtasks, whatever the seeds              | .95

The last column is of normal values and measured by `benchmarks/interval_coverage.py`: see docs/results.md.

Undefined scores (NaN) are left out and counted. What is compared (seeds, methods, a score and its null) is compared on
the images that all have: an image with an undefined score in one of them is left out of all (`common_images`). A seed
or method without any defined score does not take part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.nulls import draws
from xaibench.similarity.resampling import resampled_means

__all__ = [
    "Interval",
    "bootstrap_mean",
    "common_images",
    "curve_interval",
    "mean_interval",
    "paired_bootstrap",
    "ratio_interval",
    "seed_interval",
    "speaks_for",
    "subtask_interval",
]

Array = npt.NDArray[np.float64]

_CHUNK = 4_000_000  # draws held in memory at a time
_NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean with its interval: low <= mean <= high over n values; nan more were undefined.

    low and high are NaN where n < 2: one value says nothing about its spread. `speaks_for`, what the
    function of this name says, is "" where nobody said.
    """

    mean: float
    low: float
    high: float
    n: int
    nan: int = 0
    speaks_for: str = ""

    def within(self, low: float, high: float) -> Interval:
        """Its ends cut at the least and greatest value that the mean can have."""
        least, most = np.clip([self.low, self.high], low, high).tolist()
        return replace(self, low=least, high=most)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def speaks_for(seeds: int, subtasks: int = 1) -> str:
    """Whom an interval over so many training seeds and subtasks speaks for, beside other images of the kind.

    >>> speaks_for(1), speaks_for(3), speaks_for(3, subtasks=8)
    ('this student', 'other training seeds', 'other subtasks')
    """
    return "other subtasks" if subtasks > 1 else "other training seeds" if seeds > 1 else "this student"


def bootstrap_mean(values: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Mean and percentile bootstrap interval (Efron 1979) of one value an image, (N,); NaN are left out and counted.

    The same seed gives the same interval. Raises ConfigError for a level outside (0, 1) or fewer than one resample,
    DataError for values that are not one-dimensional or are infinite.
    """
    _check(level, resamples)
    x = _finite(values, "a vector (N,)", 1)
    kept = x[~np.isnan(x)]
    n, nan = len(kept), int(np.isnan(x).sum())
    if n < 2:
        return Interval(float(kept[0]) if n else _NAN, _NAN, _NAN, n, nan, speaks_for(1))
    generator = draws(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = kept[generator.integers(0, n, (rows, n))].mean(axis=1)
    low, high = np.quantile(means, _tails(level))
    mean = float(kept.mean())
    return Interval(mean, min(float(low), mean), max(float(high), mean), n, nan, speaks_for(1))


def paired_bootstrap(
    a: npt.ArrayLike, b: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """Bootstrap interval of mean(a - b) over images, (N,) twice: how far a lies above b.

    An image with a NaN on either side is left out and counted. Raises DataError for vectors of different lengths.
    """
    x, y = (_finite(values, "a vector (N,)", 1) for values in (a, b))
    if len(x) != len(y):
        raise DataError(f"paired values must match one to one, got {len(x)} and {len(y)}: score the same images")
    return bootstrap_mean(x - y, seed=seed, resamples=resamples, level=level)


def seed_interval(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean of one value a training seed, (S,), with its t interval: mean ± t(S - 1) s / sqrt(S).

    NaN are left out and counted. (A bootstrap of so few values covers far less than it says.)
    """
    _check(level, 1)
    return _t_interval(_finite(values, "a vector (S,)", 1), level)


def subtask_interval(values: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean of values (K, S), K subtasks by S training seeds, with the interval that the subtasks allow.

    The subtask is the unit of generalisation: the t interval of the subtasks' means over their seeds, K - 1 degrees of
    freedom however many seeds there are; one subtask has the interval of its seeds. For a difference between methods
    give that of each cell. NaN are left out and counted; `n` counts the subtasks, or of one its seeds, that take part.
    """
    _check(level, 1)
    x = _finite(values, "values (K, S), subtasks by seeds", 2)
    undefined: npt.NDArray[np.bool_] = np.isnan(x)
    tasks = x[~undefined.all(axis=1)]
    found = _t_interval(np.nanmean(tasks, axis=1) if len(tasks) > 1 else tasks.ravel(), level)
    return replace(found, nan=int(undefined.sum()), speaks_for=speaks_for(found.n, len(tasks)))


def mean_interval(values: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Mean and interval of scores (S, N): S training seeds, N images, on the images that all seeds have.

    S = 1: percentile bootstrap over the images; it speaks for that student alone. S > 1: t interval of the two-way
    random-effects model y = mu + a_seed + b_image + e. With mean squares A, B, E of seeds, images and residual,

        SE^2 = v / (S N),  v = max(A + B - E, A, B),  df = v^2 / (A^2/(S-1) + B^2/(N-1) + E^2/((S-1)(N-1))), at least 1

    (Satterthwaite 1946, doi 10.2307/3002019). `n` counts the scores used, `nan` the undefined ones; fewer than two
    images give no interval (NaN). Raises DataError for another shape or infinite values.
    """
    _check(level, resamples)
    x = _finite(values, "scores (S, N), seeds by images", 2)
    kept = _complete(x[..., None])
    mean, low, high = (float(one[0]) for one in _interval(kept, seed, resamples, level))
    return Interval(mean, low, high, kept[..., 0].size, int(np.isnan(x).sum()), speaks_for(len(kept)))


def curve_interval(
    values: npt.ArrayLike, *, seed: int = 0, resamples: int = 2_000, level: float = 0.95
) -> tuple[Array, Array, Array, int]:
    """`mean_interval` at each point of curves (S, N, T): mean, low, high, (T,) each, and the number of curves used.

    The bootstrap draws the same resamples at every point. An image that is undefined at any point is left out.
    """
    _check(level, resamples)
    kept = _complete(_finite(values, "curves (S, N, T)", 3))
    return *_interval(kept, seed, resamples, level), kept.shape[0] * kept.shape[1]


def ratio_interval(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    *,
    seed: int = 0,
    resamples: int = 2_000,
    level: float = 0.95,
) -> Interval:
    """sum of numerators / sum of denominators with its interval; both (S, N), S training seeds, N images.

    Sums before ratio: a single image's denominator may be near 0. S = 1: percentile bootstrap over the images; S > 1:
    the interval of `mean_interval` for (numerator - ratio * denominator) / mean denominator (delta method). The ratio
    is NaN where the denominators' sum is not above 0, its interval where their own interval reaches 0. NaN as in
    `mean_interval`.
    """
    _check(level, resamples)
    a, b = (_finite(values, "a ratio's terms (S, N), seeds by images", 2) for values in (numerators, denominators))
    if a.shape != b.shape:
        raise DataError(f"a ratio needs two arrays of one shape (S, N), got {a.shape} and {b.shape}")
    both = np.stack([a, b], axis=-1)
    kept = _complete(both)
    seeds, images, _ = kept.shape
    of = kept[..., 0].size, int(np.isnan(both).any(axis=-1).sum()), speaks_for(seeds)
    above, below = kept.sum(axis=(0, 1))
    if not below > 0:
        return Interval(_NAN, _NAN, _NAN, *of)
    ratio = float(above / below)
    low = high = np.array([_NAN])
    if seeds == 1 and images > 1:
        means = resampled_means(kept[0], seed, resamples)
        fine = means[:, 1] > 0
        if fine.mean() >= _tails(level)[1]:
            low, high = np.quantile(means[fine, 0] / means[fine, 1], _tails(level))[:, None]
    elif _interval(kept[..., 1:], seed, resamples, level)[1] > 0:
        pulls = (kept[..., :1] - ratio * kept[..., 1:]) / kept[..., 1:].mean()
        low, high = (ratio + end for end in _interval(pulls, seed, resamples, level)[1:])
    return Interval(ratio, min(float(low[0]), ratio), max(float(high[0]), ratio), *of)


def common_images(*scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """(N,) True for images on which all seeds of all methods can be compared; each of `scores` is (S, N).

    An image counts where every row has a defined score; rows without any defined score do not take part. All False
    where no row takes part.
    """
    rows: Array = np.concatenate([np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in scores])
    undefined: npt.NDArray[np.bool_] = np.isnan(rows)
    absent: npt.NDArray[np.bool_] = np.asarray(undefined.all(axis=1))[:, None]
    common: npt.NDArray[np.bool_] = np.asarray(np.logical_or(~undefined, absent).all(axis=0)) & (not absent.all())
    return common


def _complete(values: Array) -> Array:
    """(S, N, T) -> the seeds that take part, the images that they have in common."""
    undefined: npt.NDArray[np.bool_] = np.asarray(np.isnan(values).any(axis=-1))
    scores = np.where(undefined, np.nan, 0.0)
    return values[~undefined.all(axis=1)][:, common_images(scores)]


def _interval(x: Array, seed: int, resamples: int, level: float) -> tuple[Array, Array, Array]:
    """Complete values (S, N, T) -> mean, low and high over seeds and images, (T,) each."""
    seeds, images, points = x.shape
    nothing = np.full(points, np.nan)
    if seeds == 0 or images == 0:
        return nothing, nothing, nothing
    mean = x.mean(axis=(0, 1))
    if images < 2:
        return mean, nothing, nothing
    if seeds == 1:
        low, high = np.quantile(resampled_means(x[0], seed, resamples), _tails(level), axis=0)
        return mean, np.minimum(low, mean), np.maximum(high, mean)
    by_seed, by_image = x.mean(axis=1) - mean, x.mean(axis=0) - mean
    rest = x - mean - by_seed[:, None] - by_image[None]
    free = seeds - 1, images - 1, (seeds - 1) * (images - 1)
    sums = images * (by_seed**2).sum(axis=0), seeds * (by_image**2).sum(axis=0), (rest**2).sum(axis=(0, 1))
    a, b, e = (total / df for total, df in zip(sums, free))
    v = np.maximum(a + b - e, np.maximum(a, b))
    spread = sum(square**2 / df for square, df in zip((a, b, e), free))
    df = np.maximum(np.divide(v**2, spread, out=np.ones(points), where=spread > 0), 1)
    half = _t_factor(df, level) * np.sqrt(v / (seeds * images))
    return mean, mean - half, mean + half


def _t_interval(x: Array, level: float) -> Interval:
    kept = x[~np.isnan(x)]
    n = len(kept)
    mean = float(kept.mean()) if n else _NAN
    half = float(_t_factor(n - 1, level) * kept.std(ddof=1) / np.sqrt(n)) if n > 1 else _NAN
    return Interval(mean, mean - half, mean + half, n, len(x) - n, speaks_for(n))


def _t_factor(df: npt.ArrayLike, level: float) -> Array:
    """How many standard errors a t interval reaches to each side, df degrees of freedom."""
    from scipy.special import stdtrit  # slow to import

    return np.asarray(stdtrit(df, (1 + level) / 2))


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"confidence level must lie between 0 and 1, got {level}: choose 0.95, say")
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}: the default will do")


def _finite(values: npt.ArrayLike, what: str, dimensions: int) -> Array:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"an interval needs {what} of finite numbers (NaN allowed): {error}") from error
    if x.ndim != dimensions or np.isinf(x).any():
        got = "infinite values" if x.ndim == dimensions else f"shape {x.shape}"
        raise DataError(f"an interval needs {what} of finite numbers (NaN allowed), got {got}")
    return x

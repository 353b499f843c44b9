"""Tests of which of two is higher, over seeds, subtasks or images, corrected for how many were made.

units (seeds, subtasks, images)    | test
-----------------------------------|---------------------------------------------------------------------------
shared by both                     | Wilcoxon's signed-rank test (1945, doi 10.2307/3001968) of their differences
each side has its own              | Mann-Whitney U test (1947, doi 10.1214/aoms/1177730491)

A result speaks for other units of the kind that was tested: seeds for the method, subtasks for the kind of task,
images for these students alone. Few units cannot reach a small p-value, whatever the effect: n shared ones give 2^-n
at best. Where that would not survive the correction, nothing is called significant, and `power_note` says how many
units would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, count
from math import comb
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.errors import ConfigError, DataError
from xaibench.validation import checked

__all__ = [
    "Alternative",
    "Correction",
    "RankTest",
    "Unit",
    "benjamini_yekutieli",
    "family_table",
    "holm",
    "least_units",
    "power_note",
    "rank_sum",
    "signed_rank",
]

Array = npt.NDArray[np.float64]
Unit = Literal["seeds", "subtasks", "images"]
Alternative = Literal["greater", "two-sided"]
Correction = Literal["holm", "by"]

_NAMES = {"holm": "Holm", "by": "Benjamini-Yekutieli"}
_MOST_TESTS = 10**6
_EXACT = 10_000  # ways to split tied values among two groups up to which all are counted


@dataclass(frozen=True)
class RankTest:
    """One test of a > b, or of a != b.

    test     "Wilcoxon signed-rank" or "Mann-Whitney"
    n        pairs of units, or units of the smaller group
    p        p-value; NaN without units
    effect   rank-biserial correlation in [-1, 1]; 1: a is always above b
    least_p  the smallest p-value that so many units can give
    """

    test: str
    n: int
    p: float
    effect: float
    least_p: float


@checked(error=DataError)
def signed_rank(differences: npt.ArrayLike, *, alternative: Alternative = "greater") -> RankTest:
    """Wilcoxon's signed-rank test of differences a - b over units that a and b share, (n,).

    effect = (W+ - W-) / (W+ + W-), W the rank sums of positive and negative differences. NaN are left out, and zeros by
    the test (all zero: p = 1), though `n` counts these. p is exact up to 50 differences without equal sizes, up to 13
    with; else a normal approximation with continuity correction.
    """
    x = _defined(differences)
    moved = x[x != 0]
    n, sides = len(x), 1 if alternative == "greater" else 2
    least = min(1.0, sides * 0.5**n)
    if not len(moved):
        return RankTest("Wilcoxon signed-rank", n, 1.0 if n else float("nan"), 0.0 if n else float("nan"), least)
    from scipy.stats import rankdata, wilcoxon  # slow to import

    ranks = rankdata(np.abs(moved))
    p = wilcoxon(moved, alternative=alternative, correction=True).pvalue
    return RankTest("Wilcoxon signed-rank", n, float(p), float((np.sign(moved) * ranks).sum() / ranks.sum()), least)


@checked(error=DataError)
def rank_sum(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "greater") -> RankTest:
    """Mann-Whitney test of a (n,) against b (m,), which share no units.

    effect = P(a > b) - P(a < b) for one unit of each. NaN are left out. p is exact where the smaller group has at most
    20 units and no values are equal, or where these can be split in at most 10,000 ways; else a normal approximation
    with continuity correction.
    """
    x, y = _defined(a), _defined(b)
    n, sides = min(len(x), len(y)), 1 if alternative == "greater" else 2
    ways = comb(len(x) + len(y), n)
    least = min(1.0, sides / ways)
    if n == 0:
        return RankTest("Mann-Whitney", 0, float("nan"), float("nan"), least)
    from scipy.stats import mannwhitneyu, rankdata  # slow to import

    ranks = rankdata(np.concatenate([x, y]))
    tied = len(np.unique(ranks)) < len(ranks)
    found = mannwhitneyu(x, y, alternative=alternative, method="asymptotic" if tied or n > 20 else "exact")
    p, effect = float(found.pvalue), float(2 * found.statistic / (len(x) * len(y)) - 1)
    if tied and ways <= _EXACT:
        sums = np.array([sum(first) for first in combinations(ranks, len(x))]) - ranks.mean() * len(x)
        own = ranks[: len(x)].sum() - ranks.mean() * len(x)
        p = float(np.mean((sums if sides == 1 else np.abs(sums)) >= (own if sides == 1 else abs(own)) - 1e-9))
    return RankTest("Mann-Whitney", n, p, effect, least)


@checked
def family_table(
    tests: Mapping[Any, RankTest], *, unit: Unit, correction: Correction = "by", level: float = 0.05
) -> pd.DataFrame:
    """One row a test of a family, indexed by its key: test, unit, n, p, p_holm, p_by, effect, reachable, significant.

    unit        what the tests were made over
    correction  the one that `reachable` and `significant` mean

    `reachable`: the smallest p-value that the units can give would survive the correction on its own. `significant`: it
    is reachable and p, corrected, is below `level`. Tests without units (NaN) do not count in the family.
    """
    _check(level)
    rows = {key: asdict(one) for key, one in tests.items()}
    columns = ["test", "n", "p", "effect", "least_p"]
    table = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows)), columns=columns)
    family = int(table["p"].notna().sum())
    table["p_holm"], table["p_by"] = holm(table["p"]), benjamini_yekutieli(table["p"])
    table["reachable"] = table["p"].notna() & (table["least_p"] * _factor(family, correction) < level)
    table["significant"] = table["reachable"] & (table[f"p_{correction}"] < level)
    table["unit"] = unit
    return table[["test", "unit", "n", "p", "p_holm", "p_by", "effect", "reachable", "significant"]]


@checked
def power_note(
    table: pd.DataFrame,
    *,
    alternative: Alternative = "greater",
    correction: Correction = "by",
    level: float = 0.05,
) -> str:
    """A sentence that says how many units would do, where tests of `family_table` cannot be significant; else "".

    alternative  of the tests

    So many units are the least that can do: to find a small effect takes more. What is said is of one difference, all
    others being none: several large ones can carry each other through a correction.
    """
    if missing := {"test", "unit", "n", "p", "reachable"} - set(table.columns):
        raise DataError(f"the table has no column '{min(missing)}': give one of family_table")
    tested = table[table["p"].notna()]
    short = tested[~tested["reachable"]]
    if short.empty:
        return ""
    unit, paired = str(short["unit"].iloc[0]), bool((short["test"] == "Wilcoxon signed-rank").all())
    needed = least_units(len(tested), correction, level=level, paired=paired, alternative=alternative)
    have = int(short["n"].max())
    tests = f"{len(tested)} tests" if len(tested) > 1 else "one test"
    some = f"in {len(short)} of {len(tested)} tests " if len(short) < len(tested) else ""
    each = "" if paired else " a group"
    few = f"{have} {unit if have != 1 else unit.removesuffix('s')}{each}"
    return (
        f"With {few} {some}no difference can be significant by itself at {level:g} ({_NAMES[correction]}, {tests}), "
        f"however large it is: that takes {needed} {unit}{each} at least."
    )


@checked
def least_units(
    family: int,
    correction: Correction = "by",
    *,
    level: float = 0.05,
    paired: bool = True,
    alternative: Alternative = "greater",
) -> int:
    """The least n with which one test of a family can be below `level` after correction, all others being 1.

    family       tests made
    paired       True: n units that both sides share, p = 2^-n at best; False: n on each side, p = 1 / binom(2n, n)
    alternative  "two-sided" tests have twice that p

    >>> [least_units(m, "by") for m in (1, 3, 6, 12, 20, 50)], [least_units(m, "holm") for m in (1, 3, 6, 12, 20, 50)]
    ([5, 7, 9, 10, 11, 13], [5, 6, 7, 8, 9, 10])
    """
    _check(level)
    if not 1 <= family <= _MOST_TESTS:
        raise ConfigError(f"a family of tests has 1 to {_MOST_TESTS}, got {family}: give the number of comparisons")
    bar = level / _factor(family, correction) / (1 if alternative == "greater" else 2)
    return next(n for n in count(1) if (0.5**n if paired else 1 / comb(2 * n, n)) < bar)


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


def benjamini_yekutieli(p: npt.ArrayLike) -> Array:
    """p-values (M,) corrected for M tests, so that of those rejected a share of at most the level is false on average.

    The i-th smallest becomes the least of M c p_j / j over j >= i, at most 1, with c = 1 + 1/2 + ... + 1/M. This holds
    whatever the dependence of the tests (Benjamini & Yekutieli 2001, doi 10.1214/aos/1013699998). NaN stay NaN and do
    not count.
    """
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    tests = len(order)
    steps = values[order] * _factor(tests, "by") / np.arange(1, tests + 1)
    corrected[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1)
    return corrected


def _factor(family: int, correction: Correction) -> float:
    """What the smallest of `family` p-values is multiplied by when all others are 1."""
    return family * (sum(1 / j for j in range(1, family + 1)) if correction == "by" else 1.0)


def _defined(values: npt.ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or np.isinf(x).any():
        got = "infinite values" if x.ndim == 1 else f"shape {x.shape}"
        raise DataError(f"a rank test needs one finite number a unit, (n,), NaN allowed, got {got}")
    return x[~np.isnan(x)]


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"a level of significance lies between 0 and 1, got {level}: choose 0.05, say")

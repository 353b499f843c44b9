"""Effects of a study's factors, and how they change the difference between its two methods, paired over seeds.

    python benchmarks/factor_effects.py studies/true-mean

For a study of two methods in every cell of a grid of factors with two levels each: mean over the cells, for each seed,
of (second level - first), then a t interval over the seeds. A seed that lacks a student in a cell is left out and
named; a factor that the study does not have, or one of other than two levels, is refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from xaibench.similarity.intervals import seed_interval

QUANTITIES = ("accuracy", "agreement", "lrp cosine")


def effect(values: pd.Series, factor: str) -> pd.Series:
    """Second level less the first, by all other levels; `values` are indexed by factors, method and seed."""
    first, second = values.index.unique(factor)
    return values.xs(second, level=factor) - values.xs(first, level=factor)


def effects(students: pd.DataFrame, factors: list[str]) -> pd.DataFrame:
    """Columns effect, quantity, mean, low, high, above 0, of: the difference, and what each factor does to it."""
    index, rows = [*factors, "method", "seed"], []
    for quantity in QUANTITIES:
        values = students.set_index(index)[quantity]
        first, second = values.index.unique("method")
        difference = effect(values, "method")
        found = {f"{second} - {first}": difference}
        for factor in factors:
            found[f"{factor} on this difference"] = effect(difference, factor)
            for method in (first, second):
                found[f"{factor} on {method}"] = effect(values.xs(method, level="method"), factor)
        for name, by_cell in found.items():
            one = seed_interval(by_cell.groupby("seed").mean())
            rows.append((name, quantity, one.mean, one.low, one.high, int((by_cell > 0).sum()), len(by_cell)))
    return pd.DataFrame(rows, columns=["effect", "quantity", "mean", "low", "high", "above 0", "of"])


def complete(students: pd.DataFrame, factors: list[str]) -> pd.DataFrame:
    """The students of the seeds that have one in every cell; SystemExit for what is no grid of two levels each."""
    for name in [*factors, "method"]:
        if name not in students:
            raise SystemExit(f"the study has no factor '{name}': give --factors of {', '.join(map(str, students))}")
        if (levels := students[name].nunique()) != 2:
            raise SystemExit(f"'{name}' has {levels} levels, effects are of two: choose other --factors")
    cells = students.groupby([*factors, "method"]).ngroups
    full = students.groupby("seed").size() == cells
    if cells != 2 ** (len(factors) + 1) or students.duplicated([*factors, "method", "seed"]).any():
        raise SystemExit(f"{len(students)} students are not one for each of {', '.join(factors)}, method and seed")
    if not full.all():
        print(f"left out, for lack of a student in some cell: seeds {', '.join(map(str, full.index[~full]))}")
    return students[students["seed"].isin(full.index[full])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--factors", nargs="+", default=["init", "images"])
    options = parser.parse_args()
    students = complete(pd.read_csv(options.study / "students.csv"), options.factors)
    print(effects(students, options.factors).round(3).to_string(index=False))


if __name__ == "__main__":
    main()

"""Tables of several runs as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from xaibench.similarity.intervals import common_images, subtask_interval
from xaibench.study.tables import value_range

__all__ = ["over_runs"]

_SUMMED = ("n", "nan", "images", "explained")


def over_runs(tables: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Tables of runs, alike in form, as one: a row for each of `keys`, numbers as their means over the runs.

    A number is averaged over the runs in which all rows have it (rows without any aside). A quantity X with "X low" and
    "X high", or "X_low" and "X_high", gets the t interval over the runs; of one run it keeps its own. `mean` has low
    and high. Counts (n, nan, images, explained) are added up, seeds are the least of a run.
    """
    if len(tables) == 1:
        return tables[0]
    every = pd.concat([table.assign(run_=place) for place, table in enumerate(tables)], ignore_index=True)
    for name in every.select_dtypes("float"):
        grid = every.pivot(index=list(keys), columns="run_", values=name).astype(float)
        every[name] = every[name].where(every["run_"].isin(grid.columns[common_images(grid.to_numpy())]))
    rows = []
    for names, part in every.groupby(list(keys), sort=False):
        row: dict[str, object] = dict(zip(keys, names))
        numbers = part.select_dtypes("number").astype(float)
        for name in tables[0].columns.drop(list(keys)):
            if name in _SUMMED:
                row[name] = int(part[name].sum())
            elif name == "seeds":
                row[name] = part[name].min()
            elif name in numbers:
                row[name] = float(numbers[name].mean())
            else:
                row[name] = part[name].iloc[0]
        for name, low, high in _intervals(tables[0]):
            one = subtask_interval(numbers[[name]].to_numpy()).within(*value_range(name))
            row[low], row[high] = one.low, one.high
        rows.append(row)
    merged = pd.DataFrame(rows)[list(tables[0].columns)]
    return merged.astype({"seeds": "Int64"}) if "seeds" in merged else merged


def _intervals(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """(X, its lower end, its upper end) of all quantities with an interval."""
    if {"mean", "low", "high"} <= set(table):
        yield "mean", "low", "high"
    for name in map(str, table):
        for gap in (" ", "_"):
            if {f"{name}{gap}low", f"{name}{gap}high"} <= set(table):
                yield name, f"{name}{gap}low", f"{name}{gap}high"

"""From scores a person cannot read to the two tables that a person can: a row a metric, a row a method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaibench.similarity.compare import INDEPENDENT, PAIRINGS
from xaibench.similarity.intervals import Interval, bootstrap_mean, bootstrap_seeds
from xaibench.similarity.metrics.table import METRICS

__all__ = ["method_table", "summarise"]


def summarise(scores: pd.DataFrame, grid: int, sign: str) -> pd.DataFrame:
    """One row a method, explainer and metric: mean over seeds and images with its 95% interval, chance, nulls.

    The interval is a bootstrap over images, and over seeds too where there are several (both levels are resampled).
    `n` counts scores, `nan` those that are undefined and left out. `lift` is the mean of score minus the independent
    student's on the same image and seed.
    """
    rows = []
    for (method, explainer, metric), part in scores.groupby(["method", "explainer", "metric"], sort=False):
        matched = _interval(part[part["pairing"] == "matched"])
        chance, chance_sd = METRICS[str(metric)].chance(grid, sign)
        row = {"method": method, "explainer": explainer, "metric": metric, "grid": grid, "sign": sign}
        row |= {"images": part["image"].nunique(), "seeds": part["seed"].nunique()}
        row |= {
            "mean": matched.mean,
            "low": matched.low,
            "high": matched.high,
            "n": matched.n,
            "nan": matched.nan,
        }
        row |= {"chance": chance, "chance_sd": chance_sd}
        by_pairing = dict(tuple(part.groupby("pairing")))
        lift = part.iloc[:0]
        if INDEPENDENT in by_pairing:
            keys = ["seed", "image"]
            both = by_pairing["matched"].merge(by_pairing[INDEPENDENT], on=keys, suffixes=("", "_null"))
            lift = both[keys].assign(value=both["value"] - both["value_null"])
        for pairing, column in PAIRINGS.items():
            if column:
                row |= _bounds(column, by_pairing.get(pairing, part.iloc[:0]))
        rows.append(row | _bounds("lift", lift))
    return pd.DataFrame(rows)


def method_table(methods: Sequence[str], summary: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a method: accuracy and agreement with the teacher on the test set, cosine and lift of each explainer.

    "X low" and "X high" are the ends of X's 95% interval, from the same bootstrap as in `summarise`. Where no
    independent student was scored there is no lift.
    """
    predictions = predictions.assign(method=predictions["model"].str.rpartition("/seed")[0])
    teacher = predictions[predictions["model"] == "teacher"].set_index("image")
    rows = [
        {
            "method": "teacher",
            **_columns("accuracy", bootstrap_mean(teacher["correct"].astype(float).to_numpy())),
        }
    ]
    for method in methods:
        part = predictions[predictions["method"] == method]
        correct = part.pivot(index="model", columns="image", values="correct").astype(float)
        predicted = part.pivot(index="model", columns="image", values="predicted")
        agree = predicted.eq(teacher["predicted"].reindex(predicted.columns), axis="columns").astype(float)
        row: dict[str, object] = {
            "method": method,
            **_columns("accuracy", bootstrap_seeds(correct.to_numpy())),
        }
        row |= _columns("agreement", bootstrap_seeds(agree.to_numpy()))
        cosines = summary[(summary["method"] == method) & (summary["metric"] == "cosine")]
        for explainer in summary["explainer"].unique():
            found = cosines[cosines["explainer"] == explainer]
            for name, start in (("cosine", ""), ("lift", "lift_")):
                for suffix, column in (
                    ("", start.removesuffix("_") or "mean"),
                    (" low", f"{start}low"),
                    (" high", f"{start}high"),
                ):
                    row[f"{explainer} {name}{suffix}"] = found[column].iloc[0] if len(found) else float("nan")
        rows.append(row)
    table = pd.DataFrame(rows)
    empty = [name for name in table if " lift" in str(name) and table[name].isna().all()]
    return table.drop(columns=empty)


def _bounds(column: str, part: pd.DataFrame) -> dict[str, float]:
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    interval = _interval(part) if len(part) else nothing
    return {column: interval.mean, f"{column}_low": interval.low, f"{column}_high": interval.high}


def _interval(part: pd.DataFrame) -> Interval:
    values = part.pivot(index="seed", columns="image", values="value").to_numpy(dtype=np.float64)
    return bootstrap_seeds(values)


def _columns(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.mean, f"{name} low": interval.low, f"{name} high": interval.high}

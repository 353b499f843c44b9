"""From scores a person cannot read to the two tables that a person can: a row a metric, a row a method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from xaibench.similarity.heatmaps import METRICS
from xaibench.similarity.statistics import Interval, bootstrap_mean, bootstrap_seeds

__all__ = ["method_table", "summarise"]


def summarise(scores: pd.DataFrame, grid: int, sign: str) -> pd.DataFrame:
    """One row a method, explainer and metric: mean over seeds and images with its 95% interval, chance, nulls.

    The interval is a bootstrap over images, and over seeds too where there are several (both levels are resampled).
    `n` counts scores, `nan` those that are undefined and left out.
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
        for column, pairing in (("random_student", "random student"), ("mismatched", "mismatched images")):
            null = part[part["pairing"] == pairing]
            interval = _interval(null) if len(null) else Interval(float("nan"), float("nan"), float("nan"), 0, 0)
            row |= {column: interval.mean, f"{column}_low": interval.low, f"{column}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def method_table(methods: Sequence[str], summary: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a method: accuracy and agreement with the teacher on the test set, and the cosine of each explainer.

    "X low" and "X high" are the ends of X's 95% interval, from the same bootstrap as in `summarise`.
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
            for suffix, column in (("", "mean"), (" low", "low"), (" high", "high")):
                row[f"{explainer} cosine{suffix}"] = found[column].iloc[0] if len(found) else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(part: pd.DataFrame) -> Interval:
    values = part.pivot(index="seed", columns="image", values="value").to_numpy(dtype=np.float64)
    return bootstrap_seeds(values)


def _columns(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.mean, f"{name} low": interval.low, f"{name} high": interval.high}

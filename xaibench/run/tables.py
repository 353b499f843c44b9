"""From scores a person cannot read to tables that a person can: a row a metric, a row a method."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xaibench.similarity.intervals import Interval, common_images, mean_interval
from xaibench.similarity.metrics.table import METRICS, main_metric
from xaibench.similarity.similarity_report import INDEPENDENT, PAIRINGS

__all__ = ["gap_table", "interval_columns", "method_table", "models_by_method", "summarise"]

_NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0)


def summarise(scores: pd.DataFrame, grid: int, sign: str) -> pd.DataFrame:
    """One row a method, explainer and metric: mean over seeds and images with its 95% interval, chance, nulls.

    Methods are compared on the same images: `images` of the `explained` ones, those on which all methods and seeds have
    a defined score by this explainer and metric (`common_images`). `n` counts the scores that a mean rests on, `nan`
    the method's undefined ones. Intervals are those of `mean_interval`: with one seed they speak for that student on
    other images, with more for the method.

    `lift` is the mean of score minus the independent student's on the same image and seed. Its interval is NaN for one
    seed: two students say nothing about what the method brings.
    """
    kind = ["explainer", "metric"]
    matched = scores[scores["pairing"] == "matched"]
    common = {which: _common(part) for which, part in matched.groupby(kind)}
    rows = []
    for (method, explainer, metric), part in scores.groupby(["method", *kind], sort=False):
        images, (least, most) = common[explainer, metric], METRICS[str(metric)].range
        tables = {str(pairing): _table(one) for pairing, one in part.groupby("pairing")}
        own = tables["matched"]
        score = mean_interval(own[images]).within(least, most)
        chance, chance_sd = METRICS[str(metric)].chance(grid, sign)
        row = {"method": method, "explainer": explainer, "metric": metric, "grid": grid, "sign": sign}
        row |= {"images": len(images), "explained": own.shape[1], "seeds": len(own)}
        row |= {"mean": score.mean, "low": score.low, "high": score.high}
        row |= {"n": score.n, "nan": own.size - int(own.count().sum()), "chance": chance, "chance_sd": chance_sd}
        for pairing, column in PAIRINGS.items():
            if column:
                null = mean_interval(tables[pairing][images]) if pairing in tables else _NOTHING
                row |= interval_columns(column, null.within(least, most), "_")
        lift = _NOTHING
        if INDEPENDENT in tables:
            gains = (own - tables[INDEPENDENT])[images]
            lift = mean_interval(gains).within(least - most, most - least)
            if len(gains.dropna(how="all")) < 2:
                lift = Interval(lift.mean, float("nan"), float("nan"), lift.n)
        rows.append(row | interval_columns("lift", lift, "_"))
    return pd.DataFrame(rows)


def method_table(summary: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a method: accuracy and agreement with the teacher on the test set, main score and lift of each explainer.

    "X low" and "X high" are the ends of X's 95% interval, see `mean_interval`; `seeds` says over how many. The score is
    that of `main_metric`. Where no independent student was scored there is no lift.
    """
    correct, predicted = (
        predictions.pivot(index="model", columns="image", values=name) for name in ("correct", "predicted")
    )
    agree = predicted.eq(predicted.loc["teacher"], axis="columns").astype(float)
    metric = main_metric(summary["metric"])
    scores = summary[summary["metric"] == metric].set_index(["method", "explainer"])
    rows = [{"method": "teacher", **interval_columns("accuracy", _share(correct, ["teacher"]))}]
    for method, names in models_by_method(predictions).items():
        row: dict[str, object] = {"method": method, "seeds": len(names)}
        row |= interval_columns("accuracy", _share(correct, names))
        row |= interval_columns("agreement", _share(agree, names))
        for explainer in summary["explainer"].unique():
            found = scores.loc[(method, explainer)] if (method, explainer) in scores.index else None
            for name, column in ((metric, "mean"), ("lift", "lift")):
                ends = ("low", "high") if column == "mean" else ("lift_low", "lift_high")
                for suffix, key in zip(("", " low", " high"), (column, *ends)):
                    row[f"{explainer} {name}{suffix}"] = float("nan") if found is None else found[key]
        rows.append(row)
    table = pd.DataFrame(rows).astype({"seeds": "Int64"})
    empty = [name for name in map(str, table) if name.endswith(" lift") and table[name].isna().all()]
    return table.drop(columns=[f"{name}{end}" for name in empty for end in ("", " low", " high")])


def gap_table(faithfulness: pd.DataFrame) -> pd.DataFrame:
    """One row an explainer and method, the teacher first: mean gap of pixel flipping with its 95% interval.

    faithfulness  columns model, explainer, image, gap: `Run.faithfulness`

    The teacher's interval is over images, a method's over seeds and images (`mean_interval`), all on the images on
    which all models have a defined gap by this explainer. `n` counts the gaps that a mean rests on, `nan` the undefined
    ones.
    """
    rows = []
    for explainer, part in faithfulness.groupby("explainer", sort=False):
        gaps = part.pivot(index="model", columns="image", values="gap")
        common = common_images(gaps)
        models = pd.Series(part["model"].unique())
        methods = models.str.rpartition("/seed")[0].where(models.str.contains("/seed"), models)
        for method, names in models.groupby(methods, sort=False):
            own = gaps.loc[list(names)]
            mean = mean_interval(own.loc[:, common])
            row = {"explainer": explainer, "method": method, "seeds": len(own)}
            undefined = own.size - int(own.count().sum())
            rows.append(row | interval_columns("faithfulness", mean, "_") | {"n": mean.n, "nan": undefined})
    return pd.DataFrame(rows)


def _common(matched: pd.DataFrame) -> list[str]:
    """The images on which all students can be compared."""
    table = matched.pivot(index=["method", "seed"], columns="image", values="value")
    return list(table.columns[common_images(table)])


def _table(part: pd.DataFrame) -> pd.DataFrame:
    """Scores of one method: a row a seed, a column an image."""
    return part.pivot(index="seed", columns="image", values="value").astype(np.float64)


def _share(answers: pd.DataFrame, models: list[str]) -> Interval:
    return mean_interval(answers.loc[models].astype(float)).within(0, 1)


def models_by_method(predictions: pd.DataFrame) -> dict[str, list[str]]:
    """Method -> names of its students ("kd/seed0"), in the order of the predictions."""
    models = pd.Series(predictions["model"].unique())
    models = models[models.str.contains("/seed")]
    return {str(m): list(names) for m, names in models.groupby(models.str.rpartition("/seed")[0], sort=False)}


def interval_columns(name: str, interval: Interval, gap: str = " ") -> dict[str, float]:
    """The columns of a mean and the ends of its interval."""
    return {name: interval.mean, f"{name}{gap}low": interval.low, f"{name}{gap}high": interval.high}

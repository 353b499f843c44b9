"""What the means of a run hide: classes, answers in which students depart from the teacher, differences of methods."""

from __future__ import annotations

import numpy as np
import pandas as pd

from xaibench.run.folder import TEACHER
from xaibench.run.tables import interval_columns, models_by_method
from xaibench.similarity.intervals import Interval, common_images, curve_interval
from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.paired import paired_differences

__all__ = ["class_accuracy", "class_scores", "departures", "method_pairs"]

_RESAMPLES = 2_000  # there are many classes


def class_accuracy(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a class: images, and the share that teacher and students of each method get right, with 95% intervals.

    predictions  columns model, image, label, correct: `Run.predictions`
    """
    correct = predictions.pivot(index="model", columns="image", values="correct").astype(float)
    models = {TEACHER: [TEACHER], **models_by_method(predictions)}
    rows = []
    for label, images in _by_class(predictions).items():
        own = {name: correct.loc[group, images] for name, group in models.items()}
        rows.append({"class": label, "images": len(images)} | _means(own, (0, 1)))
    return pd.DataFrame(rows)


def class_scores(scores: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a class: images, and each method's mean score on them, with 95% intervals.

    scores  columns method, seed, metric, image, value, of one explainer, metric and pairing; images without a score in
            one of the methods are left out of all
    """
    table = scores.pivot(index=["method", "seed"], columns="image", values="value").astype(np.float64)
    table = table.loc[:, common_images(table)]
    methods, bounds = scores["method"].unique(), METRICS[str(scores["metric"].iloc[0])].range
    rows = []
    for label, images in _by_class(predictions).items():
        own = table.loc[:, table.columns.isin(images)]
        means = _means({method: own.loc[method] for method in methods}, bounds)
        rows.append({"class": label, "images": own.shape[1]} | means)
    return pd.DataFrame(rows)


def departures(predictions: pd.DataFrame) -> pd.DataFrame:
    """Confusion of teacher and students: one row a pair of classes that differ, the most frequent first.

    predictions  columns model, image, predicted: `Run.predictions`

    Columns "teacher says", "student says" and for each method the share of all images that are answered so, the mean
    over its seeds. Pairs that never occur are left out.
    """
    predicted = predictions.pivot(index="model", columns="image", values="predicted")
    teacher = predicted.loc[TEACHER]
    shares = {}
    for method, models in models_by_method(predictions).items():
        pairs = [pd.DataFrame({"teacher says": teacher, "student says": predicted.loc[name]}) for name in models]
        shares[method] = pd.concat(pairs).value_counts() / (len(models) * len(teacher))
    table = pd.DataFrame(shares).fillna(0.0).rename_axis(["teacher says", "student says"]).reset_index()
    table = table[table["teacher says"] != table["student says"]]
    order = table[list(shares)].sum(axis=1).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def method_pairs(scores: pd.DataFrame) -> pd.DataFrame:
    """`paired_differences` of all methods, on the seeds that all of them have.

    scores  columns method, seed, image, value, of one explainer, metric and pairing
    """
    table = scores.pivot(index=["method", "seed"], columns="image", values="value").astype(np.float64)
    methods = list(scores["method"].unique())
    seeds = sorted(set.intersection(*(set(table.loc[method].index) for method in methods)))
    return paired_differences({method: table.loc[method].loc[seeds] for method in methods})


def _means(tables: dict[str, pd.DataFrame], bounds: tuple[float, float]) -> dict[str, float]:
    """Name -> mean of (S, N) values without NaN, with the ends of its 95% interval; equal S share their resamples."""
    found: dict[str, dict[str, float]] = {}
    for seeds in {len(table) for table in tables.values()}:
        names = [name for name, table in tables.items() if len(table) == seeds]
        values = np.stack([tables[name].to_numpy(np.float64) for name in names], axis=-1)
        mean, low, high, n = curve_interval(values, resamples=_RESAMPLES)
        for i, name in enumerate(names):
            found[name] = interval_columns(name, Interval(mean[i], low[i], high[i], n).within(*bounds))
    return {column: value for name in tables for column, value in found[name].items()}


def _by_class(predictions: pd.DataFrame) -> dict[str, list[str]]:
    """Class -> its images, in the order of the test set."""
    images = predictions.drop_duplicates("image")
    return {str(label): list(part["image"]) for label, part in images.groupby("label", sort=False)}

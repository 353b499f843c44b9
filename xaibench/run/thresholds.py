"""Least scores that a run must reach, for continuous integration."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from xaibench.errors import ConfigError, unknown_name
from xaibench.run.folder import Run

__all__ = ["Threshold", "parse_threshold", "shortfalls"]


@dataclass(frozen=True)
class Threshold:
    """The mean of `metric` under `explainer` must be at least `least`."""

    explainer: str
    metric: str
    least: float


def parse_threshold(text: str, run: Run) -> Threshold:
    """ "lrp.cosine=0.6" -> a threshold on one of the run's explainers and metrics."""
    name, equals, number = text.rpartition("=")  # an explainer may have options of its own
    explainer, dot, metric = name.strip().rpartition(".")
    try:
        least = float(number)
    except ValueError:
        least = float("nan")
    if not equals or not dot or least != least:
        raise ConfigError(f"threshold '{text}' is not of the form EXPLAINER.METRIC=VALUE, as in lrp.cosine=0.6")
    if explainer not in run.explainers:
        raise unknown_name("explainer of this run", explainer, run.explainers)
    if metric not in run.config.similarity.metrics:
        raise unknown_name("metric of this run", metric, run.config.similarity.metrics)
    return Threshold(explainer, metric, least)


def shortfalls(summary: pd.DataFrame, thresholds: list[Threshold], method: str | None = None) -> list[str]:
    """One line a threshold and method whose mean lies below it or is undefined.

    method  hold only this one to the thresholds; None: every method but the control `student-only`
    """
    methods = list(summary["method"].unique())
    if method is not None and method not in methods:
        raise unknown_name("method of this run", method, methods)
    held = [method] if method is not None else [m for m in methods if m != "student-only"] or methods
    lines = []
    for threshold in thresholds:
        rows = summary[(summary["explainer"] == threshold.explainer) & (summary["metric"] == threshold.metric)]
        for name in held:
            found = rows.loc[rows["method"] == name, "mean"]
            mean = float(found.iloc[0]) if len(found) else float("nan")
            if not mean >= threshold.least:
                lines.append(
                    f"{name}: {threshold.explainer}.{threshold.metric} is {mean:.3f}, below {threshold.least:g}"
                )
    return lines

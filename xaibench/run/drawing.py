"""The pictures of a run that its scores make: one way to draw each, for its page, the command line and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaibench.attribution.result import Attribution
from xaibench.figures.flipping import flip_figure
from xaibench.figures.gallery import gallery
from xaibench.figures.history import history_figure
from xaibench.figures.league import league_figure
from xaibench.figures.matrix import score_matrix
from xaibench.figures.names import explainer_label, label, metric_label
from xaibench.figures.similarity import similarity_figure
from xaibench.run.folder import TEACHER, Run
from xaibench.run.job import StudentKey
from xaibench.run.sections import matched_scores
from xaibench.similarity.metrics.table import DEFAULT_METRICS

__all__ = [
    "PANELS",
    "drawn_metrics",
    "first_students",
    "flipping_of",
    "gallery_of",
    "histories_of",
    "history_of",
    "league_of",
    "scores_of",
    "similarity_of",
    "spread_images",
    "spread_methods",
]

PANELS = 3
"""Explainers that stand side by side."""

_GALLERY_ROWS, _GALLERY_COLUMNS, _FLIPPED = 6, 6, 5

Names = Mapping[str, str] | None


def gallery_of(
    run: Run,
    explainer: str,
    students: dict[str, str],
    images: list[str],
    *,
    names: Names = None,
    width: str | float = "double",
) -> Figure:
    """The comparison figure: a row an image, columns input, teacher and each student, scores under the panels.

    students  column title -> student of the run ("kd/seed0")
    images    keys of explained images
    """
    position = {key: i for i, key in enumerate(run.images.keys)}
    rows = [position[key] for key in images]
    teacher = run.attribution(TEACHER, explainer)
    maps = {title: run.attribution(name, explainer) for title, name in students.items()}
    scores = matched_scores(run, explainer)
    keys = {title: StudentKey.parse(name) for title, name in students.items()}
    metric = metric_label(run.metric, names)
    texts = {}
    for title, key in keys.items():
        own = (scores["method"] == key.method_name) & (scores["seed"] == key.seed)
        chosen = scores[own].set_index("image")["value"]
        texts[title] = [f"{metric} {_number(chosen[image])}" for image in images]
    pixels = run.images.images[rows].float() / 255
    seeds = sorted({key.seed for key in keys.values()})
    return gallery(
        pixels,
        teacher.scored_heatmaps[rows],
        {title: attribution.scored_heatmaps[rows] for title, attribution in maps.items()},
        heading=f"{explainer_label(explainer, names)}, students of seed {', '.join(map(str, seeds))}",
        titles=[_title(run, teacher, row, names) for row in rows],
        scores=texts,
        names=names,
        width=width,
    )


def league_of(
    run: Run, methods: Sequence[str] | None = None, *, names: Names = None, width: str | float = "double"
) -> Figure:
    """The table of methods as a picture; None: all methods."""
    table = run.table()
    return league_figure(_of(table, methods, TEACHER), names=names, width=width)


def similarity_of(
    run: Run,
    methods: Sequence[str],
    explainers: Sequence[str] | None = None,
    *,
    names: Names = None,
    width: str | float = "double",
) -> Figure:
    """The scores of some methods by some explainers, None: the run's first few, with chance and nulls."""
    summary, chosen = run.summary(), list(explainers or run.explainers[:PANELS])
    kept = summary["explainer"].isin(chosen) & summary["metric"].isin(drawn_metrics(run))
    count = len(run.explainers)
    note = f"{len(chosen)} of {count} explainers" if len(chosen) < count and explainers is None else ""
    return similarity_figure(_of(summary[kept], methods), note=note, names=names, width=width)


def scores_of(
    run: Run,
    methods: Sequence[str],
    explainers: Sequence[str] | None = None,
    *,
    names: Names = None,
    width: str | float = "double",
) -> Figure:
    """Every score of some methods by some explainers (None: all) in one table."""
    summary = run.summary()
    kept = summary["explainer"].isin(explainers or run.explainers)
    return score_matrix(_of(summary[kept], methods), names=names, width=width)


def history_of(run: Run, methods: Sequence[str], *, names: Names = None, width: str | float = "single") -> Figure:
    """Validation accuracy while the students of some methods learned."""
    goal = run.manifest.get("teacher_validation_accuracy")
    return history_figure(histories_of(run, methods), teacher_accuracy=goal, names=names, width=width)


def histories_of(run: Run, methods: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Student -> its training, for all seeds of some methods."""
    return {str(key): run.history(str(key)) for key in run.keys if key.method_name in methods}


def flipping_of(
    run: Run,
    curves: pd.DataFrame,
    explainer: str,
    methods: Sequence[str] | None = None,
    *,
    names: Names = None,
    width: str | float = "double",
) -> Figure:
    """Flip curves of the teacher and of some methods; None: up to 5, evenly from most to least alike."""
    there = [str(name) for name in curves["model"].unique() if name != TEACHER]
    if methods is None and len(there) > _FLIPPED:
        methods = spread_methods(run.summary(), explainer, tuple(there), _FLIPPED, metric=run.metric)
    return flip_figure(curves[curves["model"].isin([TEACHER, *(methods or there)])], names=names, width=width)


def first_students(run: Run) -> dict[str, str]:
    """Method -> its student of the first seed that there is one of."""
    found: dict[str, str] = {}
    for key in run.keys:
        found.setdefault(key.method_name, str(key))
    return found


def spread_images(run: Run, explainer: str, count: int = _GALLERY_ROWS) -> list[str]:
    """Keys of `count` images at evenly spaced ranks of their mean score (`Run.metric`), best first."""
    means = matched_scores(run, explainer).groupby("image")["value"].mean().dropna()
    means = means.sort_values(ascending=False, kind="stable")
    ranks = np.linspace(0, len(means) - 1, min(count, len(means))).round().astype(int)
    return [str(means.index[rank]) for rank in ranks]


def spread_methods(
    summary: pd.DataFrame,
    explainer: str,
    methods: tuple[str, ...],
    count: int = _GALLERY_COLUMNS,
    *,
    metric: str = "cosine",
) -> list[str]:
    """`methods`, where there are more than `count` those at evenly spaced ranks of mean score; in their own order."""
    chosen = summary[(summary["explainer"] == explainer) & (summary["metric"] == metric)]
    means = chosen.set_index("method")["mean"].reindex(list(methods)).sort_values(kind="stable")  # NaN last
    ranks = np.linspace(0, len(means) - 1, min(count, len(means))).round().astype(int)
    kept = {means.index[rank] for rank in ranks}
    return [method for method in methods if method in kept]


def drawn_metrics(run: Run) -> tuple[str, ...]:
    """The run's metrics that `similarity_of` draws: those of the default, or its first few."""
    metrics = run.config.similarity.metrics
    return tuple(name for name in metrics if name in DEFAULT_METRICS) or metrics[:_GALLERY_ROWS]


def _of(table: pd.DataFrame, methods: Sequence[str] | None, *always: str) -> pd.DataFrame:
    return table if methods is None else table[table["method"].isin([*always, *methods])]


def _title(run: Run, teacher: Attribution, row: int, names: Names) -> str:
    classes = [label(name, names) for name in run.classes]
    return f"{classes[int(teacher.target.label[row])]}\nrather than {classes[int(teacher.target.contrast[row])]}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("nan", "–").replace("-", "\N{MINUS SIGN}")

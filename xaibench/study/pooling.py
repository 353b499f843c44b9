"""The scores of a finished run against the grid on which its heatmaps are compared."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from xaibench.attribution.attribution import Attribution
from xaibench.errors import ExplanationError, unknown_name
from xaibench.figures.pooling import pooling_figure
from xaibench.figures.style import save_figure
from xaibench.files import write_text
from xaibench.similarity.pooling import pooling_curve
from xaibench.study.present import spread_methods
from xaibench.study.run import Run, file_name

__all__ = ["pool_run"]


def pool_run(
    run: Run,
    *,
    explainer: str | None = None,
    metric: str = "cosine",
    methods: Sequence[str] | None = None,
    grids: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Score the run's heatmaps on several grids; write pooling-EXPLAINER-METRIC.{csv,pdf,png} and return the table.

    explainer  None: the run's first
    methods    None: up to 6, evenly from most to least alike; their students of the first seed are taken
    grids      cells a side; None: `similarity.pooling.default_grids`

    A row a method and grid, columns as in `pooling_curve`. Raises UnknownNameError for names that the run does not
    have, ExplanationError where none of the methods has a valid explanation.
    """
    explainer = explainer or run.explainers[0]
    for method in methods or ():
        if method not in run.config.methods:
            raise unknown_name("method of this run", method, run.config.methods)
    methods = methods or spread_methods(run.summary(), explainer, run.config.methods)
    teacher = _heatmaps(run.attribution("teacher", explainer))
    seed, similarity = run.config.seeds[0], run.config.similarity
    curves = {}
    for method in methods:
        name = f"{method}/seed{seed}"
        if run.attribution_path(name, explainer).is_file():
            student = _heatmaps(run.attribution(name, explainer))
            curves[method] = pooling_curve(
                teacher, student, metric, grids, sign=similarity.sign, seed=run.config.data.seed
            )
    if not curves:
        raise ExplanationError(
            f"no student of seed {seed} in {run.folder} has a valid explanation by {explainer}: see validity.csv"
        )
    table = pd.concat([curve.assign(method=method) for method, curve in curves.items()], ignore_index=True)
    table.insert(0, "method", table.pop("method"))
    stem = run.folder / f"pooling-{file_name(explainer)}-{file_name(metric)}"
    write_text(stem.with_suffix(".csv"), table.to_csv(index=False))
    save_figure(pooling_figure(curves, metric), stem)
    return table


def _heatmaps(attribution: Attribution) -> Tensor:
    maps = attribution.heatmaps.clone()
    maps[list(attribution.validity.flagged)] = float("nan")
    return maps

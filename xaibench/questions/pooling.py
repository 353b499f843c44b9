"""The scores of a finished run against the grid on which its heatmaps are compared."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from xaibench.errors import ConfigError, ExplanationError, unknown_name
from xaibench.figures.pooling import pooling_figure
from xaibench.figures.style import save_figure
from xaibench.files import write_text
from xaibench.run.folder import Run, file_name, variant
from xaibench.run.page import spread_methods
from xaibench.similarity.intervals import bootstrap_seeds
from xaibench.similarity.maps import map_size
from xaibench.similarity.metrics.table import METRICS, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted
from xaibench.similarity.pooling import default_grids

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

    Other methods or grids than the defaults stand in the files' names (`variant`).

    explainer  None: the run's first
    methods    None: up to 6, evenly from most to least alike; all their students with a valid explanation count
    grids      cells a side; None: `similarity.pooling.default_grids`

    A row a method and grid: [method, grid, mean, low, high, n, nan, seeds, chance, chance_sd, mismatched, shifted].
    mean over the n defined scores of all seeds and images with its bootstrap 95% interval (both resampled); nan counts
    undefined scores, those of images whose explanation is incomplete among them; mismatched and shifted are the means
    of the nulls. Raises UnknownNameError for names that the run does not have, ConfigError for grids, ExplanationError
    where none of the methods has a valid explanation.
    """
    explainer = explainer or run.explainers[0]
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    for method in methods or ():
        if method not in run.config.methods:
            raise unknown_name("method of this run", method, run.config.methods)
    usual = spread_methods(run.summary(), explainer, run.config.methods)
    methods = list(methods or usual)
    teacher = run.attribution("teacher", explainer).scored_heatmaps
    every = default_grids(*map_size(teacher))
    chosen = every if grids is None else tuple(grids)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"grids must be given once each, at least one, got {list(chosen)}")
    parts = []
    for method in methods:
        names = [f"{method}/seed{seed}" for seed in run.config.seeds]
        valid = [name for name in names if run.attribution_path(name, explainer).is_file()]
        students = [run.attribution(name, explainer).scored_heatmaps for name in valid]
        if students:
            rows = [_row(teacher, students, metric, grid, run) for grid in chosen]
            parts.append(pd.DataFrame([{"method": method, **row} for row in rows]))
    if not parts:
        raise ExplanationError(f"no student in {run.folder} has a valid explanation by {explainer}: see validity.csv")
    table = pd.concat(parts, ignore_index=True)
    asked = variant(methods != usual and " ".join(methods), chosen != every and "_".join(map(str, chosen)))
    stem = run.folder / f"pooling-{file_name(explainer)}-{file_name(metric)}{asked}"
    write_text(stem.with_name(f"{stem.name}.csv"), table.to_csv(index=False))
    curves = {str(method): curve for method, curve in table.groupby("method", sort=False)}
    save_figure(pooling_figure(curves, metric), stem)
    return table


def _row(teacher: Tensor, students: Sequence[Tensor], metric: str, grid: int, run: Run) -> dict[str, float]:
    sign, seed = run.config.similarity.sign, run.config.data.seed
    theirs, *maps = (with_sign(pool(one, grid), sign) for one in (teacher, *students))
    others = [one[derangement(len(one), seed)] for one in maps] if len(theirs) > 1 else []
    moved = [shifted(one, seed) for one in maps] if grid > 1 else []
    score = bootstrap_seeds([METRICS[metric](theirs, one) for one in maps], seed=seed)
    chance, chance_sd = METRICS[metric].chance(grid, sign)
    row = {"grid": grid, "mean": score.mean, "low": score.low, "high": score.high, "n": score.n, "nan": score.nan}
    row |= {"seeds": len(maps), "chance": chance, "chance_sd": chance_sd}
    for name, null in (("mismatched", others), ("shifted", moved)):
        row[name] = float(pd.Series([v for one in null for v in METRICS[metric](theirs, one)], dtype=float).mean())
    return row

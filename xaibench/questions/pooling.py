"""The scores of a finished run against the grid on which its heatmaps are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from xaibench.errors import ConfigError, unknown_name
from xaibench.figures.pooling import pooling_figure
from xaibench.questions.question import Question, attributions, choose, choose_students, command
from xaibench.run.answers import facts
from xaibench.run.drawing import spread_methods
from xaibench.run.folder import TEACHER, Run, file_name
from xaibench.run.job import StudentKey
from xaibench.similarity.intervals import common_images, mean_interval
from xaibench.similarity.metrics.table import METRICS, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted
from xaibench.similarity.pooling import default_grids
from xaibench.validation import checked

__all__ = ["pool_run"]


@checked
def pool_run(
    run: Run,
    *,
    explainer: str | None = None,
    metric: str = "cosine",
    methods: Sequence[str] | None = None,
    grids: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Score the run's heatmaps on several grids; write pooling-EXPLAINER-METRIC.{csv,pdf,png} and return the table.

    Other methods or grids than the defaults stand in the files' names. An answer that still stands is read back
    (`Question`).

    explainer  None: the run's first
    methods    None: up to 6, evenly from most to least alike
    grids      cells a side; None: `similarity.pooling.default_grids`

    A row a method and grid: [method, grid, mean, low, high, n, nan, seeds, chance, chance_sd, mismatched, shifted].
    mean over the n scores of all seeds on the images on which the scores of all methods are defined, with its 95%
    interval; nan counts the method's undefined ones, all of a student whose explanation was refused. seeds: students
    with a valid explanation. mismatched and shifted are the means of the nulls.

    Raises UnknownNameError for names that the run does not have, ConfigError for grids, RunFolderError where results
    are missing or out of date, ExplanationError where no student has a valid explanation.
    """
    (explainer,) = choose("explainer of this run", [explainer or run.explainers[0]], run.explainers)
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    every = choose_students(run)
    usual = spread_methods(run.summary(), explainer, tuple(every), metric=run.metric)
    students = choose_students(run, usual if methods is None else methods)
    _, height, width = run.images.shape
    known = default_grids(height, width)
    chosen = known if grids is None else tuple(grids)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"grids must be given once each, at least one, got {list(chosen)}")
    keys = [key for group in students.values() for key in group]
    other_methods = list(students) if list(students) != usual else []
    other_grids = chosen if chosen != known else ()
    about = {
        "config": ["data.seed", "similarity.sign", "seeds", *([] if other_methods else ["methods"])],
        "maps": {explainer: [TEACHER, *map(str, keys)]},
    }
    question = Question(
        run.folder,
        f"pooling-{file_name(explainer)}-{file_name(metric)}",
        {"explainer": explainer, "metric": metric, "grids": chosen},
        facts(run, about),
        (" ".join(other_methods), "_".join(map(str, other_grids))),
        command("pooling", "RUN", explainer=explainer, metric=metric, method=other_methods, grid=other_grids),
    )
    answer = question.answer()
    if answer is None:
        table = _table(run, keys, explainer, metric, chosen)
        drawn = table[table["seeds"] > 0].groupby("method", sort=False)
        curves = {str(method): curve for method, curve in drawn}
        answer = question.keep({question.stem: table}, {question.stem: pooling_figure(curves, metric)})
    return answer[question.stem]


def _table(run: Run, students: Sequence[StudentKey], explainer: str, metric: str, grids: Sequence[int]) -> pd.DataFrame:
    teacher, found = attributions(run, students, explainer)
    undefined = torch.full_like(teacher.heatmaps, np.nan)
    groups: dict[str, list[Tensor]] = {}
    for key, maps in zip(students, found):
        groups.setdefault(key.method_name, []).append(undefined if maps is None else maps.scored_heatmaps)
    by_grid = {grid: _rows(teacher.scored_heatmaps, groups, metric, grid, run) for grid in grids}
    return pd.DataFrame([by_grid[grid][method] for method in groups for grid in grids])


def _rows(
    teacher: Tensor, groups: Mapping[str, Sequence[Tensor]], metric: str, grid: int, run: Run
) -> dict[str, dict[str, object]]:
    """Method -> its row for one grid."""
    sign, seed = run.config.similarity.sign, run.config.data.seed
    theirs = with_sign(pool(teacher, grid), sign)
    pooled = {method: [with_sign(pool(one, grid), sign) for one in maps] for method, maps in groups.items()}

    def scores(maps: Sequence[Any]) -> npt.NDArray[np.float64]:
        return np.array([METRICS[metric](theirs, one) for one in maps], dtype=np.float64).reshape(len(maps), -1)

    matched = {method: scores(maps) for method, maps in pooled.items()}
    common = common_images(*matched.values())
    chance, chance_sd = METRICS[metric].chance(grid, sign)
    rows: dict[str, dict[str, object]] = {}
    for method, maps in pooled.items():
        others = [one[derangement(len(one), seed)] for one in maps] if len(theirs) > 1 else []
        moved = [shifted(one, seed) for one in maps] if grid > 1 else []
        score = mean_interval(np.where(common, matched[method], np.nan), seed=seed)
        row = {"method": method, "grid": grid}
        undefined = np.isnan(matched[method])
        row |= {"mean": score.mean, "low": score.low, "high": score.high, "n": score.n, "nan": int(undefined.sum())}
        row |= {"seeds": int((~undefined).any(axis=1).sum()), "chance": chance, "chance_sd": chance_sd}
        for name, null in (("mismatched", others), ("shifted", moved)):
            row[name] = pd.Series(scores(null).ravel()).mean()
        rows[method] = row
    return rows

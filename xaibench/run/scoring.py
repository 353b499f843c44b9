"""Score every student's heatmaps against the teacher's, beside the nulls."""

from __future__ import annotations

import pandas as pd

from xaibench.attribution.result import Attribution
from xaibench.distillation.methods import StudentOnly
from xaibench.errors import ExplanationError
from xaibench.run.folder import TEACHER, UNTRAINED, Run
from xaibench.run.job import StudentKey
from xaibench.run.tables import gap_table, method_table, summarise
from xaibench.similarity.compare import compare
from xaibench.validation import checked

__all__ = ["score_models"]

_COLUMNS = ["method", "seed", "explainer", "metric", "pairing", "image", "value"]
_FAITHFULNESS = ["method", "explainer", "faithfulness", "faithfulness_low", "faithfulness_high"]
_NO_TEACHER = StudentOnly()


@checked
def score_models(run: Run) -> None:
    """Score every student's maps; write scores, their summary and the table of methods.

    A student whose explanation was refused gets no score, which validity.csv shows. The summary says beside a method's
    scores how faithful its maps are (`gap_table`). Raises RunFolderError, and writes nothing, where an explanation is
    missing; ExplanationError where no student has a valid one.
    """
    similarity = run.config.similarity
    predictions, gaps = run.predictions(), gap_table(run.faithfulness())
    parts = []
    for explainer in run.explainers:
        maps = {name: run.attribution(name, explainer) for name in run.explained(explainer)}
        for key in run.keys:
            if str(key) not in maps:
                continue
            report = compare(
                maps[TEACHER],
                maps[str(key)],
                keys=run.images.keys,
                metrics=similarity.metrics,
                grid=similarity.grid,
                sign=similarity.sign,
                independent_student=_independent(maps, key),
                random_student=maps.get(UNTRAINED),
                seed=run.config.data.seed,
            )
            parts.append(report.rows.assign(method=key.method_name, seed=key.seed, explainer=explainer))
    if not parts:
        raise ExplanationError(f"no student of {run.folder} has a valid explanation: see {run.folder / 'validity.csv'}")
    scores = pd.concat(parts, ignore_index=True)[_COLUMNS]
    summary = summarise(scores, report.grid, similarity.sign)
    summary = summary.merge(gaps[_FAITHFULNESS], how="left", on=["method", "explainer"])
    table = method_table(summary, predictions)
    run.write_tables(scores=scores, summary=summary, table=table)


def _independent(maps: dict[str, Attribution], key: StudentKey) -> Attribution | None:
    """The student of the same seed that was trained without the teacher, the null of all others."""
    return None if key.method == _NO_TEACHER else maps.get(str(StudentKey(_NO_TEACHER, key.seed)))

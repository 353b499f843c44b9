"""The tables of a study."""

from __future__ import annotations

import pandas as pd

from xaibench.files import write_text
from xaibench.study.folder import Study

__all__ = ["write_results"]


def write_results(study: Study) -> None:
    """Write what the finished runs say together."""
    parts = []
    for condition in study.config.conditions:
        run = study.runs[condition.name]
        if run.finished:
            levels = dict(condition.levels)
            parts.append(run.scores().assign(run=condition.name, **levels)[["run", *levels, *run.scores().columns]])
    if parts:
        write_text(study.folder / "scores.csv", pd.concat(parts, ignore_index=True).to_csv(index=False))

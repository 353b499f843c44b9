"""From what a run panel's traits ask for to what it shows, whole."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from xaibench.widgets.run_panel_traits import PARTS
from xaibench.widgets.run_results import Results
from xaibench.widgets.score_table import details_html, sorted_methods
from xaibench.widgets.worker import Turn

__all__ = ["RunScene", "compute_run_scene"]


@dataclass(frozen=True, eq=False)
class RunScene:
    """What is on show, whole.

    asked     trait -> value
    results   what it is of
    answered  whether the further question has an answer that stands
    opened    the least and the most alike images as HTML
    """

    asked: Mapping[str, Any]
    results: Results
    html: str = ""
    text: str = ""
    answered: bool = False
    opened: str = ""
    methods: list[str] = field(default_factory=list)
    table: pd.DataFrame | None = None
    scores: pd.DataFrame | None = None


def compute_run_scene(known: Results, asked: Mapping[str, Any], opened: Callable[[], str], turn: Turn) -> RunScene:
    """What a run panel shows next.

    asked   trait -> value
    opened  makes the images of the score that is open, as HTML
    """
    part = asked["part"]
    turn.report(0.0, PARTS[part])
    explainer, metric = asked["explainer"], asked["metric"]
    if part == "scores":
        table, summary = known.table(), known.summary()
        scores = summary[summary["metric"] == metric]
        methods = sorted_methods(table, scores, asked["sort"], asked["lowest"])
        details = details_html(scores, methods, explainer, metric)
        return RunScene(asked, known, details, "", False, opened(), methods, table, scores)
    if part == "intervals":
        return RunScene(asked, known, known.intervals(explainer, metric, turn))
    if part == "training":
        return RunScene(asked, known, known.training(asked["method"], turn))
    if part == "questions":
        answer, answered = known.answer(asked["question"], explainer, metric, turn)
        return RunScene(asked, known, answer, answered=answered)
    text = known.result_table(asked["copied"], explainer).render(asked["form"])
    paths = "".join(f"<div><code>{html.escape(str(path))}</code></div>" for path in known.files())
    return RunScene(asked, known, f"<h4>Files</h4>{paths}", text)

"""What a run panel shows, and where it comes from: a run folder, or anything else with tables, pictures and images."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from xaibench.attribution.store.store import default_store
from xaibench.errors import RunFolderError
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.report.result_table import ResultTable
from xaibench.report.seen import means_seen, scores_seen, similarity_seen, training_seen
from xaibench.run.drawing import spread_methods
from xaibench.run.figures import figure
from xaibench.run.folder import Run, open_run
from xaibench.run.results import results
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.explorer_traits import Asked
from xaibench.widgets.pictures import figure_html
from xaibench.widgets.run_questions import QUESTIONS, answers, ask, command_line, titled
from xaibench.widgets.scene import compute_scene
from xaibench.widgets.sources import comparison_of
from xaibench.widgets.stage import Display, stage_html
from xaibench.widgets.worker import Turn

__all__ = ["Results", "RunResults"]

_IMAGES = 3
_MOST_METHODS = 12


@runtime_checkable
class Results(Protocol):
    """What a run panel asks for. Whatever is missing raises an error that says how to make it.

    title              what is on show
    methods, explainers, metrics, metric
                       names; the last is the metric that the table opens with
    questions          names of what may be asked further, see `run_questions.QUESTIONS`; () for nothing
    groups, group      points of a study's grid, and the one that this is; () and "" where there is one
    """

    @property
    def title(self) -> str: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def explainers(self) -> tuple[str, ...]: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def metric(self) -> str: ...
    @property
    def questions(self) -> tuple[str, ...]: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> str: ...

    def at(self, group: str) -> Results:
        """The results at another point."""

    def table(self) -> pd.DataFrame:
        """One row a method: accuracy and agreement with their intervals, as `Run.table`."""

    def summary(self) -> pd.DataFrame:
        """One row a method, explainer and metric, as `Run.summary`."""

    def result_table(self, kind: str, explainer: str) -> ResultTable:
        """The table "methods", or "scores" of one explainer, with its renderings."""

    def intervals(self, explainer: str, metric: str, turn: Turn) -> str:
        """Interval plots as HTML."""

    def training(self, method: str, turn: Turn) -> str:
        """How the students of a method were trained, and on what, as HTML."""

    def images(self, method: str, explainer: str, metric: str, turn: Turn) -> str:
        """The least and the most alike images of a score, as HTML."""

    def answer(self, question: str, explainer: str, metric: str, turn: Turn) -> tuple[str, bool]:
        """(an answer as HTML, whether there is one that stands)."""

    def ask(self, question: str, explainer: str, metric: str, turn: Turn) -> None:
        """Answer a question."""

    def files(self) -> Sequence[Path]:
        """Where tables and figures lie."""

    def renewed(self) -> Results:
        """The same, read anew."""


class RunResults:
    """The results of a run folder."""

    groups: tuple[str, ...] = ()
    group = ""

    def __init__(self, run: Run | Path | str) -> None:
        self.run = run if isinstance(run, Run) else open_run(run)
        self._comparison: Comparison | None = None

    @property
    def title(self) -> str:
        return f"{self.run.folder}: {self.run.config.data.dataset} ({', '.join(self.run.classes)})"

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key.method_name for key in self.run.keys))

    @property
    def explainers(self) -> tuple[str, ...]:
        return self.run.explainers

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.run.config.similarity.metrics

    @property
    def metric(self) -> str:
        return self.run.metric

    @property
    def questions(self) -> tuple[str, ...]:
        return tuple(QUESTIONS)

    def at(self, group: str) -> RunResults:
        return self

    def table(self) -> pd.DataFrame:
        return self.run.table()

    def summary(self) -> pd.DataFrame:
        return self.run.summary()

    def result_table(self, kind: str, explainer: str) -> ResultTable:
        if kind == "methods":
            return results(self.run)
        summary = self.run.summary()
        rows = summary[summary["explainer"] == explainer].drop(columns=["explainer"])
        return ResultTable(rows.rename(columns={"low": "mean low", "high": "mean high"}), f"Scores by {explainer}.")

    def intervals(self, explainer: str, metric: str, turn: Turn) -> str:
        table, summary = self.run.table(), self.run.summary()
        shown = spread_methods(summary, explainer, self.methods, _MOST_METHODS, metric=metric)
        chosen = summary[(summary["explainer"] == explainer) & summary["method"].isin(shown)]
        some = f", {len(shown)} of {len(self.methods)} methods evenly from most to least alike"
        some = some if len(shown) < len(self.methods) else ""
        of_metric = chosen[chosen["metric"] == metric]
        turn.report(0.1, "methods")
        league = figure_html(figure(self.run, "league"), means_seen(table))
        turn.report(0.4, "likeness")
        options: dict[str, Any] = {"explainer": explainer, "methods": shown}
        likeness = figure_html(figure(self.run, "similarity", **options), similarity_seen(of_metric))
        turn.report(0.7, "all scores")
        every = figure_html(figure(self.run, "scores", **options), scores_seen(chosen))
        by = html.escape(f"Likeness to the teacher's heatmaps by {explainer_label(explainer)}{some}")
        return (
            f"<h4>Methods side by side</h4>{league}<h4>{by}</h4>{likeness}"
            f"<h4>Every score{html.escape(some)}</h4>{every}"
        )

    def training(self, method: str, turn: Turn) -> str:
        names = [str(key) for key in self.run.keys if key.method_name == method]
        turn.report(0.1, "training history")
        histories = {name: self.run.history(name) for name in names}
        drawn = figure(self.run, "history", methods=[method], width="double")
        parts = [
            f"<h4>Training of {html.escape(method_label(method))}</h4>{figure_html(drawn, training_seen(histories))}"
        ]
        for name in names:
            path, student = self.run.student_folder(name).folder / "influence.csv", method_label(name)
            if path.is_file():
                turn.report(0.5, f"influence, {student}")
                parts.append(f"<h4>Most helpful and most harmful training images of {html.escape(student)}</h4>")
                parts.append(_png_html(path.with_suffix(".png"), _influence_seen(path, student)) + _where(path))
        if len(parts) == 1:
            parts.append(_note("This method does not weight training images by their influence."))
        return "".join(parts)

    def images(self, method: str, explainer: str, metric: str, turn: Turn) -> str:
        if self._comparison is None:
            turn.report(0.0, "images")
            self._comparison = comparison_of(self.run, store=default_store())
        known = self._comparison
        members = known.groups.get(method)
        if members is None:
            raise RunFolderError(f"{method} has no scores: run 'xaibench score {self.run.folder}'")
        shown = members[0] if len(members) == 1 else f"{method}/mean"
        parts = []
        for sort in ("least alike", "most alike"):
            asked = Asked("", (shown,), explainer, "", "", metric, known.sign, sort, "all", "", _IMAGES)
            rows = compute_scene(known, asked, ("sort",), None, turn).rows
            drawn = stage_html(
                rows,
                Display(sign=known.sign),
                explainer=explainer,
                metric=metric,
                grid=known.grid,
                classes=known.classes,
                total=len(known.keys),
            )
            parts.append(f'<div class="xb-end"><h4>{sort}</h4>{drawn}</div>')
        title = f"{method_label(method)}, {explainer_label(explainer)}, {metric_label(metric)}"
        return f'<h3>{html.escape(title)}</h3><div class="xb-ends-of">{"".join(parts)}</div>'

    def answer(self, question: str, explainer: str, metric: str, turn: Turn) -> tuple[str, bool]:
        turn.report(0.1, QUESTIONS[question].title)
        run = open_run(self.run.folder)  # raises an error where it is gone
        made = answers(run, question, explainer, metric)
        parts = [f"<h4>{html.escape(titled(question, explainer, metric))}</h4>", _note(QUESTIONS[question].reads)]
        for one in made:
            if one.stands:
                for path in one.pictures:
                    parts.append(_png_html(path, one.seen(path)))
                parts.append(_where(self.run.folder / f"{one.stem}.csv"))
            else:
                parts.append(_note(f"{one.stem} is not shown: made from results that have changed since, or damaged."))
            parts.append(_code(one.command))
        if not made:
            parts.append(_note("This was not asked yet. To ask on the command line:"))
            parts.append(_code(command_line(self.run, question, explainer, metric)))
        return "".join(parts), any(one.stands for one in made)

    def ask(self, question: str, explainer: str, metric: str, turn: Turn) -> None:
        ask(self.run, question, explainer, metric, turn)

    def files(self) -> Sequence[Path]:
        kinds = (".csv", ".tex", ".pdf", ".html")
        return sorted(path for path in self.run.folder.iterdir() if path.suffix in kinds)

    def renewed(self) -> RunResults:
        return RunResults(self.run.folder)


def _png_html(path: Path, alt: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img class="xb-figure" src="data:image/png;base64,{data}" alt="{html.escape(alt, quote=True)}">'


def _influence_seen(path: Path, student: str) -> str:
    rows = pd.read_csv(path).sort_values("influence", kind="stable")
    helpful, harmful = (", ".join(map(str, part["label"])) for part in (rows.head(8), rows.tail(8)[::-1]))
    return (
        f"Training images of {student}. Most helpful: {helpful}. Most harmful: {harmful}. "
        f"Weights from {rows['weight'].min():.2f} to {rows['weight'].max():.2f}"
    )


def _note(text: str) -> str:
    return f'<div class="xb-note">{html.escape(text)}</div>'


def _code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _where(path: Path) -> str:
    return _note(f"Its numbers: {path}")

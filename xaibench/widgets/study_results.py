"""A study in a run panel: the means over its runs, and single runs behind them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.errors import RunFolderError, unknown_name
from xaibench.figures.differences import difference_figure
from xaibench.figures.league import league_figure
from xaibench.figures.likeness import likeness_figure
from xaibench.figures.similarity import similarity_figure
from xaibench.report.result_table import ResultTable
from xaibench.report.seen import means_seen, similarity_seen
from xaibench.report.sentences import counted
from xaibench.report.tables import best_rows
from xaibench.run.folder import Run
from xaibench.study.folder import Study, open_study
from xaibench.study.pooled import over_runs
from xaibench.study.results import labels_of
from xaibench.study.tables import difference_table, student_table
from xaibench.study.tables import groups as groups_of
from xaibench.widgets.pictures import figure_html
from xaibench.widgets.run_results import RunResults
from xaibench.widgets.worker import Turn

__all__ = ["StudyResults", "results_of"]

_TRAININGS = 4  # runs whose training is shown
_NAMED = 8  # runs that are named


def results_of(what: Any) -> Any:
    """What a run panel shows of a run, a study, or the folder of either; anything else as it is."""
    if isinstance(what, Study) or (isinstance(what, (str, Path)) and (Path(what) / "study.json").is_file()):
        return StudyResults(what)
    return RunResults(what) if isinstance(what, (str, Path, Run)) else what


class StudyResults:
    """The results of a study's finished runs at one point of its grid, over all subtasks.

    what   a study or its folder
    group  the point, as the study's page names it ("fraction 0.1"); "": the first

    Raises RunFolderError where no run is finished, UnknownNameError for another point.
    """

    def __init__(self, what: Study | Path | str, group: str = "") -> None:
        self.study = what if isinstance(what, Study) else open_study(what)
        students = student_table(self.study)
        if students.empty:
            raise RunFolderError(f"no run of {self.study.folder} is finished: run 'xaibench study' on it")
        known = dict(groups_of(self.study.config, students))
        self.group = group or next(iter(known))
        if self.group not in known:
            raise unknown_name("group of this study", group, known)
        self.groups = tuple(known) if len(known) > 1 else ()
        self._students = known[self.group]
        self.runs = {name: RunResults(self.study.runs[name]) for name in self._students["run"].unique()}
        self._first = next(iter(self.runs.values()))

    @property
    def title(self) -> str:
        names = list(self.runs)
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        return f"{self.study.folder}: {counted(len(names), 'run')} ({shown})"

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self._students["method"].unique())

    @property
    def explainers(self) -> tuple[str, ...]:
        return self._first.explainers

    @property
    def metrics(self) -> tuple[str, ...]:
        return self._first.metrics

    @property
    def metric(self) -> str:
        return self._first.metric

    @property
    def questions(self) -> tuple[str, ...]:
        return ()  # they are asked of single runs

    def at(self, group: str) -> StudyResults:
        return self if group == self.group else StudyResults(self.study, group)

    def table(self) -> pd.DataFrame:
        return over_runs([run.table() for run in self.runs.values()], ["method"])

    def summary(self) -> pd.DataFrame:
        tables = [run.summary() for run in self.runs.values()]
        return over_runs(tables, ["method", "explainer", "metric"])

    def result_table(self, kind: str, explainer: str) -> ResultTable:
        if kind == "methods":
            table = self.table()
            rivals = [row for row, method in enumerate(table["method"]) if method != "teacher"]
            labels = labels_of(self.study, self._students)
            return ResultTable(
                table,
                f"Means over {len(self.runs)} runs, or those that all methods have.",
                best_rows(table, rivals),
                labels,
            )
        summary = self.summary()
        rows = summary[summary["explainer"] == explainer].drop(columns=["explainer"])
        return ResultTable(rows.rename(columns={"low": "mean low", "high": "mean high"}), f"Scores by {explainer}.")

    def intervals(self, explainer: str, metric: str, turn: Turn) -> str:
        table, summary = self.table(), self.summary()
        chosen = summary[(summary["explainer"] == explainer) & (summary["metric"] == metric)]
        turn.report(0.1, "methods")
        parts = [f"<h4>Methods side by side</h4>{figure_html(league_figure(table), means_seen(table))}"]
        turn.report(0.4, "likeness")
        likeness = similarity_figure(chosen)
        parts.append(f"<h4>Likeness to the teacher's heatmaps</h4>{figure_html(likeness, similarity_seen(chosen))}")
        turn.report(0.6, "differences")
        asked = self.study.config
        differences = difference_table(self._students, asked.claim, asked.control, subtasks=asked.subtasks)
        if not differences.empty and differences["difference"].notna().any():
            drawn = figure_html(difference_figure(differences), "Chart of differences between methods")
            parts.append(f"<h4>Differences</h4>{drawn}")
        turn.report(0.8, "accuracy and likeness")
        drawn = figure_html(
            likeness_figure(self._students, self.metric), "Accuracy against likeness, a point a student"
        )
        return "".join([*parts, f"<h4>Are more accurate students also more alike?</h4>{drawn}"])

    def training(self, method: str, turn: Turn) -> str:
        there = [(name, run) for name, run in self.runs.items() if method in run.methods]
        shown = there[:_TRAININGS]
        parts = [f"<h3>{html.escape(name)}</h3>{run.training(method, turn)}" for name, run in shown]
        if len(there) > len(shown):
            parts.append(f'<div class="xb-note">The first {len(shown)} of {len(there)} runs.</div>')
        if missing := len(self.runs) - len(there):
            parts.append(f'<div class="xb-note">{missing} of {len(self.runs)} runs have no such student.</div>')
        return "".join(parts)

    def images(self, method: str, explainer: str, metric: str, turn: Turn) -> str:
        """Those of the run in which the method is least like its teacher."""
        means = {}
        for name, run in self.runs.items():
            rows = run.summary().set_index(["method", "explainer", "metric"])["mean"]
            means[name] = float(rows.get((method, explainer, metric), float("nan")))
        least = pd.Series(means).idxmin() if pd.Series(means).notna().any() else next(iter(self.runs))
        title = html.escape(f"The run in which it is least alike: {least}")
        return f"<h3>{title}</h3>{self.runs[str(least)].images(method, explainer, metric, turn)}"

    def answer(self, question: str, explainer: str, metric: str, turn: Turn) -> tuple[str, bool]:
        raise self._of_one_run()

    def ask(self, question: str, explainer: str, metric: str, turn: Turn) -> None:
        raise self._of_one_run()

    def files(self) -> Sequence[Path]:
        kinds = (".csv", ".tex", ".pdf", ".html")
        return sorted(path for path in self.study.folder.iterdir() if path.suffix in kinds)

    def renewed(self) -> StudyResults:
        return StudyResults(self.study.folder, self.group)

    def _of_one_run(self) -> RunFolderError:
        name = next(iter(self.runs))
        return RunFolderError(f"questions are asked of one run: open xb.RunPanel('{self.study.folder}/runs/{name}')")

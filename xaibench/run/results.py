"""The table of a run's methods for a paper: chosen columns, what is best in bold, and a caption that says of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.report.result_table import ResultTable
from xaibench.report.sentences import whom
from xaibench.report.tables import best_rows, chosen_columns
from xaibench.run.costs import STUDENT, costs_of
from xaibench.run.folder import TEACHER, Run
from xaibench.validation import checked

__all__ = ["COSTS", "labels_of", "results"]

COSTS = ("parameters", "macs", "latency_ms")
"""Columns that are shown only where they are asked for: the same for all students."""


@checked
def results(run: Run, columns: Sequence[str] | None = None, *, names: Mapping[str, str] | None = None) -> ResultTable:
    """The table of methods (`Run.table`) with these columns in this order; None: all but `COSTS`.

    names  method, explainer or metric -> what to write in its place in HTML and LaTeX, as for `figure`

    Bold are, among the students, the highest mean and each whose 95% interval reaches it. Raises UnknownNameError for a
    column that the run does not have, RunFolderError for costs that were not measured.
    """
    table = run.table()
    if columns is not None:
        if set(columns) & set(COSTS):
            table = _with_costs(table, costs_of(run))
        else:
            table = table.assign(**dict.fromkeys(COSTS, 0.0))  # names that may be meant
        table = chosen_columns(table, columns)
    students = [row for row, method in enumerate(run.table()["method"]) if method != TEACHER]
    return ResultTable(
        table, _caption(run, list(map(str, table)), names), best_rows(table, students), labels_of(run, names)
    )


def labels_of(run: Run, names: Mapping[str, str] | None = None) -> dict[str, str]:
    """How the run's methods, students, explainers, metrics and the columns of its tables are written for readers."""
    explainers = {name: explainer_label(name, names) for name in run.explainers}
    metrics = {name: metric_label(name, names) for name in run.config.similarity.metrics}
    columns = {f"{name} {run.metric}": f"{label} {metrics[run.metric]}" for name, label in explainers.items()}
    columns |= {f"{name} lift": f"{label} lift" for name, label in explainers.items()}
    named = {name: method_label(name, names) for name in (TEACHER, *run.config.methods, *run.students)}
    return explainers | metrics | columns | named | {"macs": "MACs", "latency_ms": "latency (ms)"}


def _with_costs(table: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    own = costs.set_index("model").loc[[TEACHER if name == TEACHER else STUDENT for name in table["method"]]]
    return table.assign(**{name: own[name].to_numpy() for name in COSTS})


def _caption(run: Run, columns: Sequence[str], names: Mapping[str, str] | None) -> str:
    """What the columns show, and the images and seeds that they rest on."""
    summary = run.summary()
    explained = summary[summary["metric"] == run.metric].groupby("explainer", sort=False)["images"].first()
    parts = [f"Students of {run.config.data.label} ({', '.join(run.classes)})."]
    if {"accuracy", "agreement"} & set(columns):
        parts.append(f"Accuracy and agreement with the teacher: n = {run.manifest['images']['test']} test images.")
    shown = [name for name in explained.index if {f"{name} {run.metric}", f"{name} lift"} & set(columns)]
    if shown:
        counts = "; ".join(f"{explainer_label(str(name), names)} n = {explained[name]}" for name in shown)
        parts.append(f"Likeness to the teacher's heatmaps ({metric_label(run.metric, names)}), images: {counts}.")
    if any(name.endswith(" lift") for name in columns):
        parts.append("Lift: above a student trained without the teacher.")
    if set(COSTS) & set(columns):
        device = costs_of(run)["device"].iloc[0]
        parts.append(f"Cost: of one image; latency, the median in ms, measured on {device}.")
    if any(f"{name} low" in columns for name in columns):
        seeds = run.table()["seeds"].dropna()
        several = f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}"
        over = "seeds and images" if seeds.max() > 1 else "images"
        parts.append(f"Seeds: {several}. ±: half of the 95% interval over {over}. {whom(int(seeds.min()))}")
    return " ".join(parts)

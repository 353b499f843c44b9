"""What a study leaves beside its runs: tables for programs and papers, figures, and a page."""

from __future__ import annotations

import re

import pandas as pd

from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.files import write_text
from xaibench.report.html import Section, paragraph, write_report
from xaibench.report.result_table import ResultTable
from xaibench.report.sentences import counted
from xaibench.report.tables import best_rows, csv_table
from xaibench.study.folder import Study
from xaibench.study.page import Group, headline, sections
from xaibench.study.tables import COUNTS, difference_table, groups, method_means, placed, quantities, student_table

__all__ = ["labels_of", "write_results"]


def write_results(study: Study) -> None:
    """Write what the finished runs say together; nothing where none is finished.

    scores.csv       all scores of all runs, a row each
    students.csv     a row a student, see `student_table`
    methods.csv      a row a method: means with intervals, see `method_means`; methods.tex for a paper
    differences.csv  a row a pair of methods and quantity, with tests, see `difference_table`
    report.html      and its figures
    """
    students = student_table(study)
    if students.empty:
        return
    write_text(study.folder / "scores.csv", csv_table(_scores(study)))
    write_text(study.folder / "students.csv", csv_table(students))
    parts = []
    for name, rows in groups(study.config, students):
        means = method_means(rows, subtasks=study.config.subtasks)
        labels = labels_of(study, rows)
        shown = means.drop(columns=list(COUNTS))
        caption = _caption(means, name, rows["run"].nunique())
        table = ResultTable(shown, caption, best_rows(shown), labels)
        differences = difference_table(rows, study.config.claim, study.config.control, subtasks=study.config.subtasks)
        parts.append(Group(name, rows, table, means, differences))
    for stem, tables in (("methods", [p.means for p in parts]), ("differences", [p.differences for p in parts])):
        named = [table.assign(group=part.name) if len(parts) > 1 else table for part, table in zip(parts, tables)]
        write_text(study.folder / f"{stem}.csv", csv_table(pd.concat(named, ignore_index=True)))
    write_text(study.folder / "methods.tex", "\n".join(part.table.render("latex") for part in parts))
    title, rest = titled(study.config.about or "What the students of many runs have in common")
    about = [Section("About", [paragraph(rest)])] if rest else []
    page = study.folder / "report.html"
    write_report(page, title=title, headline=headline(study, parts), sections=about + sections(study, parts))


def titled(about: str) -> tuple[str, str]:
    """The first sentence, without its full stop, and the rest.

    >>> titled("What is it? A study."), titled("A study. Of two"), titled("A study")
    (('What is it?', 'A study.'), ('A study', 'Of two'), ('A study', ''))
    """
    first, *rest = re.split(r"(?<=[.?!])\s+", about, maxsplit=1)
    return first.removesuffix("."), " ".join(rest)


def labels_of(study: Study, students: pd.DataFrame) -> dict[str, str]:
    """How methods and quantities are written for readers."""
    labels = {name: method_label(name) for name in study.config.methods}
    for name in quantities(students):
        explainer, _, metric = name.rpartition(" ")
        if explainer:
            written = metric if metric == "lift" else metric_label(metric)
            labels[name] = f"{explainer_label(explainer)} {written}"
    return labels


def _scores(study: Study) -> pd.DataFrame:
    finished = study.finished_runs
    parts = [placed(one, finished[one.name].scores()) for one in study.config.conditions if one.name in finished]
    return pd.concat(parts, ignore_index=True)


def _caption(means: pd.DataFrame, group: str, runs: int) -> str:
    subtasks, seeds, students = (int(means[count].max()) for count in ("subtasks", "seeds", "students"))
    each = f"{'up to ' * (students < subtasks * seeds)}{counted(seeds, 'seed')}"
    some = counted(subtasks, "subtask")
    text = f"Means over {f'{some} of {each} each' if runs > 1 else each}"
    if subtasks < runs:
        text += f", those of {runs} in which every method has a student"
    whom = str(means["speaks_for"].iloc[0])
    whom += ", on these images" if whom == "other training seeds" else ""
    bars = f" ±: half of the 95% interval, which speaks for {whom}." if whom.startswith("other") else ""
    lift = " Lift: above a student trained without the teacher." if any(str(c).endswith(" lift") for c in means) else ""
    return f"{group + ': ' if group else ''}{text}.{bars}{lift}"

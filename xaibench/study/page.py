"""The page of a study."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from xaibench.figures.differences import difference_figure
from xaibench.figures.league import league_figure
from xaibench.figures.likeness import likeness_figure
from xaibench.figures.names import method_label
from xaibench.figures.reliability import reliability_figure
from xaibench.figures.style import save_figure
from xaibench.figures.transfer import transfer_figure
from xaibench.report.html import Html, Picture, Section, file_list, folded, paragraph, picture, preformatted, sheet
from xaibench.report.result_table import ResultTable
from xaibench.report.seen import means_seen
from xaibench.report.sentences import counted
from xaibench.run.folder import TEACHER, file_name
from xaibench.run.outputs import load_outputs
from xaibench.similarity.predictions import probabilities, reliability
from xaibench.similarity.significance import power_note
from xaibench.similarity.transfer import ASYMMETRY_WARNING, transfer_summary
from xaibench.study.folder import Study
from xaibench.study.tables import CONTROL, COUNTS, method_means, power_notes, rank_table

__all__ = ["Group", "headline", "sections"]

_FUNCTIONAL = ("agreement", "activation_distance", "jensen_shannon", "accuracy", "log_loss", "calibration_error")

_P = {"p_holm": "p (Holm)", "p_by": "p (B.-Y.)"}

_DRAWN = 8  # runs whose transfer and reliability are drawn

_FILES = {
    "students.csv": "a row a student",
    "methods.csv": "means of the methods with intervals",
    "methods.tex": "the same for LaTeX",
    "differences.csv": "differences between methods with tests",
    "scores.csv": "a row a score of an image",
    "study.json": "the grid",
}


@dataclass(frozen=True, eq=False)
class Group:
    """The students of one point of the grid, all subtasks together, and what they come to.

    name  "fraction 0.1"; "" where there is one group
    """

    name: str
    students: pd.DataFrame
    table: ResultTable
    means: pd.DataFrame
    differences: pd.DataFrame

    @property
    def stem(self) -> str:
        """The end of its files' names."""
        return f"-{file_name(self.name)}" if self.name else ""

    @property
    def suffix(self) -> str:
        """The end of its captions."""
        return f" ({self.name})" if self.name else ""


def headline(study: Study, parts: Sequence[Group]) -> str:
    """What the tests say, in a sentence or two; without a claim, what was compared."""
    done, all_ = len(study.finished_runs), len(study.runs)
    there, wanted = sum(len(part.students) for part in parts), study.config.students
    size = f"{_share(there, wanted, 'student')} in {_share(done, all_, 'run')}"
    claim = study.config.claim
    if not claim:
        methods, seeds = len(study.config.methods), len(study.config.seeds)
        return f"{size}: {counted(methods, 'method')} with {counted(seeds, 'seed')} each."
    said = []
    for part in parts:
        for quantity, rows in part.differences.groupby("quantity", sort=False):
            won = [method_label(str(b)) for b in rows.loc[rows["significant"], "b"]]
            if not rows["reachable"].any():
                continue
            name = part.table.labels.get(str(quantity), str(quantity))
            over = f"{int(rows['n'].max())} {rows['unit'].iloc[0]}"
            what = ", ".join(won) if won else "no other method"
            said.append(f"{name}{part.suffix} significantly above {what} over {over}")
    if not any(part.differences.get("p", pd.Series()).notna().any() for part in parts):
        return f"The claim for {method_label(claim)} could not be tested, for lack of students. ({size}.)"
    if not said:
        return f"With so few units no difference can be significant by itself. ({size}; 5%, Benjamini-Yekutieli.)"
    text = f"{method_label(claim)}: {'; '.join(said)}"
    return f"{text}. ({size}; 5%, Benjamini-Yekutieli.)"


def sections(study: Study, parts: Sequence[Group]) -> list[Section]:
    """The sections of the page; figures are saved beside it."""
    return [
        Section("Methods", list(_methods(study, parts))),
        Section("Differences", list(_differences(study, parts))),
        Section("Are more accurate students also more alike?", list(_likeness(study, parts))),
        Section("What the students do with the teacher's answers", list(_functional(study, parts))),
        Section("Runs", list(_runs(study))),
        Section("Files", [paragraph("Beside this page, in the study's folder:"), file_list(_files(study))]),
    ]


def _methods(study: Study, parts: Sequence[Group]) -> Iterator[Html]:
    for part in parts:
        figure = league_figure(part.means)
        yield _saved(study, f"methods{part.stem}", figure, f"Methods{part.suffix}", means_seen(part.means))
        yield sheet(part.table)
        ranks = rank_table(part.students, subtasks=study.config.subtasks).drop(columns=list(COUNTS))
        over = " and ".join(name for name in ("subtasks", "seeds") if part.means[name].max() > 1)
        caption = "Mean rank among the methods, 1 is the highest" + (f", over {over}" if over else "")
        yield sheet(ResultTable(ranks, f"{caption}{part.suffix}.", {}, part.table.labels))


def _differences(study: Study, parts: Sequence[Group]) -> Iterator[Html]:
    for part in parts:
        table = part.differences
        if table.empty:
            continue
        caption = f"Differences between methods{part.suffix}"
        if table["difference"].notna().any():
            seen = "Chart of differences; their numbers are in the table below"
            yield _saved(study, f"differences{part.stem}", difference_figure(table), caption, seen)
        shown = table.drop(columns=["test", "reachable", "speaks_for"]).rename(
            columns={"low": "difference low", "high": "difference high", "a": "method", "b": "minus", **_P}
        )
        test = " and ".join(dict.fromkeys(table["test"]))
        sides = "one-sided" if study.config.claim else "two-sided"
        text = (
            f"{caption}, each on the n {table['unit'].iloc[0]} that both methods have. {test}, {sides}; pairs of one "
        )
        text += "quantity are a family, corrected by Holm and Benjamini-Yekutieli. effect: rank-biserial correlation; "
        text += "significant: at 5% after the latter."
        yield sheet(ResultTable(shown, text, {}, part.table.labels))
        for note in power_notes(table, "greater" if study.config.claim else "two-sided"):
            yield paragraph(note, "note")


def _likeness(study: Study, parts: Sequence[Group]) -> Iterator[Html]:
    for part in parts:
        metric = next(iter(study.finished_runs.values())).metric
        panels = sum(str(name).endswith(f" {metric}") for name in part.students)
        figure = likeness_figure(part.students, metric, width="double" if panels > 1 else "single")
        seen = "Scatter of accuracy against likeness to the teacher; its numbers are in students.csv"
        yield _saved(study, f"likeness{part.stem}", figure, f"Accuracy and likeness{part.suffix}", seen)


def _functional(study: Study, parts: Sequence[Group]) -> Iterator[Html]:
    labels = {name: name.replace("_", " ") for name in _FUNCTIONAL} | {"jensen_shannon": "Jensen-Shannon"}
    for part in parts:
        means = method_means(part.students, _FUNCTIONAL, subtasks=study.config.subtasks)
        spread = " ±: half of the 95% interval." if means[f"{_FUNCTIONAL[0]} low"].notna().any() else ""
        caption = f"Answers compared with the teacher's{part.suffix} (arXiv 2510.12615).{spread}"
        yield sheet(ResultTable(means.drop(columns=list(COUNTS)), caption, {}, {**part.table.labels, **labels}))
    runs = list(study.finished_runs)
    for name in runs[:_DRAWN]:
        rows = pd.concat([part.students[part.students["run"] == name] for part in parts])
        blocks = [*_transfer(study, name, rows), _reliability(study, name)]
        if len(runs) == 1:
            yield from blocks
        else:
            yield folded(f"{name}: transfer and reliability", *blocks)
    if len(runs) > _DRAWN:
        yield paragraph(f"Of {len(runs)} runs the first {_DRAWN} are drawn; students.csv holds all.", "note")


def _reliability(study: Study, name: str) -> Html:
    outputs, labels = load_outputs(study.runs[name])
    seed = study.config.seeds[0]
    shown = [model for model in outputs if model == TEACHER or model.endswith(f"/seed{seed}")]
    curves = {model: reliability(probabilities(outputs[model]), labels) for model in shown}
    caption = f"Reliability, {name}: accuracy against confidence (seed {seed})"
    return _saved(study, f"reliability-{name}", reliability_figure(curves), caption, "Reliability curves")


def _transfer(study: Study, name: str, rows: pd.DataFrame) -> Iterator[Html]:
    if "tau+" not in rows or rows[["tau+", "tau-"]].dropna().empty:
        return
    tables = {str(method): own for method, own in rows.dropna(subset=["tau+"]).groupby("method", sort=False)}
    caption = (
        f"Transfer of right and wrong knowledge, {name}: tau is the share of the teacher's answers that a student "
        f"copies beyond {method_label(CONTROL)}, by whether they are right (tau+) or wrong (tau-); our reconstruction"
    )
    yield _saved(study, f"transfer-{name}", transfer_figure(tables), caption, "Transfer of wrong and right knowledge")
    summary = transfer_summary(tables).astype({"n": "Int64", "significant": "boolean"})
    summary["significant"] = summary["significant"].mask(summary["p"].isna())  # of the raw asymmetry: never tested
    shown = summary.drop(columns=["test", "reachable", "speaks_for", "unit"]).rename(
        columns={"low": "mean low", "high": "mean high", "wrong": "images teacher wrong", **_P}
    )
    caption = (
        f"{summary['test'].iloc[0]}, one-sided, over seeds; all rows with a p-value are one family. "
        "tau- - tau+ is tested together with tau- > 0; where tau+ lies below 0 neither is said to be above 0."
    )
    yield sheet(ResultTable(shown, caption, {}, {m: method_label(m) for m in tables}))
    if note := power_note(summary):
        yield paragraph(note, "note")
    yield paragraph(ASYMMETRY_WARNING, "note")


def _runs(study: Study) -> Iterator[Html]:
    rows = []
    for name, run in study.runs.items():
        link = f"runs/{quote(name)}/report.html"
        done = sum(run.is_distilled(student) for student in run.jobs)
        text = f'<a href="{link}">{html.escape(name)}</a>' if run.finished else html.escape(name)
        state = f"{done} of {len(run.jobs)} students" + ("" if run.finished else ", not finished")
        rows.append(f"<li>{text}: {state}</li>")
    yield Html(f"<ul>{''.join(rows)}</ul>")
    failures = study.failures
    if failures:
        yield paragraph("Failed, and left out of everything above:", "no")
        yield preformatted("\n".join(f"{task}: {error}" for task, error in failures.items()))


def _files(study: Study) -> dict[str, str]:
    return {name: what for name, what in _FILES.items() if (study.folder / name).is_file()}


def _share(number: int, of: int, what: str) -> str:
    """ "8 of 12 runs", or "12 runs" where it is all of them."""
    return f"{number} of {counted(of, what)}" if number < of else counted(of, what)


def _saved(study: Study, stem: str, figure: Figure, caption: str, seen: str) -> Html:
    save_figure(figure, study.folder / stem)
    return picture(Picture(figure, caption, seen))

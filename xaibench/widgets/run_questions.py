"""Further questions to a run, as a panel asks them: the answers in its folder, what gets them, how to read them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.progress import tell_progress
from xaibench.questions.question import command
from xaibench.run.answers import command_of, read_record, up_to_date
from xaibench.run.folder import Run
from xaibench.widgets.worker import Turn

__all__ = ["QUESTIONS", "Answer", "answers", "ask", "command_line"]


@dataclass(frozen=True)
class Further:
    """A question to a run.

    title    how it is named
    reads    how to read its pictures
    verb     its command
    options  those of explainer and metric that it depends on
    ask      what answers it, by default options
    """

    title: str
    reads: str
    verb: str
    options: tuple[str, ...]
    ask: Callable[..., Any]


# Imported when they are asked: they need what explains and trains.
def _flip(run: Run, explainer: str) -> None:
    from xaibench.questions.flipping import flip_run

    flip_run(run, explainer=explainer)


def _inside(run: Run) -> None:
    from xaibench.questions.inside import inside_run

    inside_run(run)


def _pool(run: Run, explainer: str, metric: str) -> None:
    from xaibench.questions.pooling import pool_run

    pool_run(run, explainer=explainer, metric=metric)


def _cues(run: Run) -> None:
    from xaibench.questions.cues import cue_study

    cue_study(run.config, run.folder)


QUESTIONS: Mapping[str, Further] = {
    "flipping": Further(
        "flip curves",
        "Patches vanish in each model's own order of relevance, in the teacher's and at random: the nearer a student's "
        "curve in the teacher's order lies to that in its own, the more it needs what its teacher needs.",
        "flip",
        ("explainer",),
        _flip,
    ),
    "inside": Further(
        "inside the layers",
        "Above, the share of the teacher's relevance in the first directions of its subspace; below, how alike the "
        "students are to it there. A filled marker tells something where it lies clear of its hollow controls.",
        "inside",
        (),
        _inside,
    ),
    "pooling": Further(
        "pooling",
        "The same heatmaps on coarser and finer grids: likeness that hangs on one grid is no likeness.",
        "pooling",
        ("explainer", "metric"),
        _pool,
    ),
    "cues": Further(
        "spurious cues",
        "Reliance on a spurious mark against the share of its class's training images that carried it. To ask means to "
        "train all students again for each share, which may take hours; what was trained is kept when it is cancelled.",
        "cues",
        (),
        _cues,
    ),
}
"""Name -> question."""


@dataclass(frozen=True)
class Answer:
    """An answer that lies in the folder.

    pictures  those of its files that a browser shows
    stands    whether its files and all that they were made from are as they were
    command   what makes it again
    """

    stem: str
    pictures: tuple[Path, ...]
    stands: bool
    command: str

    def seen(self, picture: Path) -> str:
        """What is seen in a picture, in words."""
        if picture.stem != self.stem:
            return f"Picture {picture.stem} of the answer {self.stem}"
        return _seen(pd.read_csv(picture.with_suffix(".csv")), f"Plot {self.stem}")


def answers(run: Run, name: str, explainer: str, metric: str) -> list[Answer]:
    """The answers to a question in the run's folder, of this explainer and metric where it depends on them."""
    question = QUESTIONS[name]
    wanted = _chosen(question, explainer, metric)
    found = []
    for path in sorted(run.folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        record = read_record(path)
        words, options = record.get("command") or [""], record.get("options", {})
        if words[0] == question.verb and all(options.get(key) == value for key, value in wanted.items()):
            pictures = tuple(run.folder / file for file in record["files"] if file.endswith(".png"))
            again = command_of(run, record, words)
            found.append(Answer(path.stem, pictures, up_to_date(run, record), again))
    return found


def ask(run: Run, name: str, explainer: str, metric: str, turn: Turn) -> None:
    """Answer a question by its default options; the answer lies in the run's folder then."""
    question = QUESTIONS[name]
    with tell_progress(turn.report):
        question.ask(run, **_chosen(question, explainer, metric))


def command_line(run: Run, name: str, explainer: str, metric: str) -> str:
    """What asks the same on the command line."""
    question = QUESTIONS[name]
    if name == "cues":
        return shlex.join(["xaibench", "cues", "CONFIG", "--out", str(run.folder)])
    words = command(question.verb, str(run.folder), **_chosen(question, explainer, metric))
    return shlex.join(["xaibench", *words])


def _chosen(question: Further, explainer: str, metric: str) -> dict[str, str]:
    given = {"explainer": explainer, "metric": metric}
    return {name: given[name] for name in question.options}


def _seen(table: pd.DataFrame, what: str) -> str:
    """The means of the table of an answer in a sentence."""
    columns = set(table)
    table = table.assign(**{name: table[name].map(method_label) for name in ("method", "model") if name in columns})
    if {"model", "order", "mean", "measure"} <= columns:
        rows = table[table["measure"] == table["measure"].iloc[0]]
        means = rows.groupby(["model", "order"], sort=False)["mean"].mean()
        text = ", ".join(f"{model} in the {order} order {value:.2f}" for (model, order), value in means.items())
        return f"{what}: mean {rows['measure'].iloc[0]} along the curve: {text}"
    if {"method", "grid", "mean"} <= columns:
        parts = []
        for method, rows in table.groupby("method", sort=False):
            first, last = (rows.sort_values("grid").iloc[i] for i in (0, -1))
            parts.append(
                f"{method} {first['mean']:.2f} on {first['grid']} cells a side, {last['mean']:.2f} on {last['grid']}"
            )
        return f"{what}: {'; '.join(parts)}"
    if {"method", "measure", "pairing", "value"} <= columns:
        rows = table[(table["measure"] == "relevance cosine") & (table["pairing"] == "matched")]
        text = ", ".join(f"{m} {v:.2f}" for m, v in rows.groupby("method", sort=False)["value"].mean().items())
        return f"{what}: relevance cosine, mean over layers: {text or 'not measured'}"
    if {"method", "quantity", "contamination", "mean"} <= columns:
        rows = table[(table["quantity"] == "attack_success")]
        rows = rows[(rows["contamination"] == rows["contamination"].max()) | (rows["method"] == "teacher")]
        text = ", ".join(f"{m} {v:.0%}" for m, v in rows.groupby("method", sort=False)["mean"].mean().items())
        return f"{what}: marked images taken for the mark's class at most contamination: {text or 'not measured'}"
    return f"{what} of {len(table)} rows"


def titled(name: str, explainer: str, metric: str) -> str:
    """A question with what it is asked of: "pooling, LRP, cosine"."""
    given = {"explainer": explainer_label(explainer), "metric": metric_label(metric)}
    return ", ".join([QUESTIONS[name].title, *(given[option] for option in QUESTIONS[name].options)])

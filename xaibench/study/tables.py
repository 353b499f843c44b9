"""What the runs of a study say together: a row a student, then means with intervals, then tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from torch.nn.functional import cross_entropy

from xaibench.run.folder import TEACHER, Run
from xaibench.run.outputs import load_outputs
from xaibench.run.tables import interval_columns
from xaibench.similarity.intervals import Interval, common_images, seed_interval, speaks_for, subtask_interval
from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.predictions import functional_comparison, probabilities
from xaibench.similarity.significance import Alternative, RankTest, Unit, family_table, power_note, signed_rank
from xaibench.similarity.similarity_report import INDEPENDENT
from xaibench.similarity.transfer import transfer_table
from xaibench.study.config import StudyConfig
from xaibench.study.folder import Study
from xaibench.study.grid import SUBTASK, Condition

__all__ = [
    "CONTROL",
    "COUNTS",
    "difference_table",
    "groups",
    "method_means",
    "placed",
    "power_notes",
    "quantities",
    "rank_table",
    "student_table",
    "value_range",
]

CONTROL = "siddo"
"""The method that transfer is measured against: the same initialisation, another order of the data, no teacher."""

COUNTS = ("subtasks", "seeds", "students", "speaks_for")
"""Columns of `method_means` that say what a mean rests on."""


def student_table(study: Study) -> pd.DataFrame:
    """One row a student of the finished runs.

    Columns run, an axis each, method, seed; accuracy, agreement and the measures of `functional_comparison` on the test
    set; for each explainer "X METRIC", the mean over the images that all students of the run can be compared on, and
    "X lift", that above the student of the same seed without a teacher; where `CONTROL` was trained, "tau+", "tau-" and
    what they rest on, see `transfer`.
    """
    finished = study.finished_runs
    parts = [placed(one, _students(finished[one.name])) for one in study.config.conditions if one.name in finished]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def placed(condition: Condition, rows: pd.DataFrame) -> pd.DataFrame:
    """A table of a run with its place in the grid in front: columns run, and an axis each."""
    place = {"run": condition.name, **dict(condition.levels)}
    return rows.assign(**place)[[*place, *rows.columns]]


def quantities(students: pd.DataFrame) -> list[str]:
    """The columns of `student_table` that are compared between methods."""
    shown, ends = ("accuracy", "agreement"), (f" {_metric(students)}", " lift")
    return [name for name in map(str, students) if name in shown or name.endswith(ends)]


def groups(config: StudyConfig, students: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The students of each point of the grid but for its subtask, with the point as text ("" where there is one).

    Without the columns of explainers that were not asked for there.
    """
    axes = [axis for axis, _ in config.axes if axis != SUBTASK]
    if not axes:
        yield "", students
        return
    asked = {one.name: one.config.explain.explainers for one in config.conditions}
    every = {explainer for explainers in asked.values() for explainer in explainers}
    for levels, rows in students.groupby(axes, sort=False):
        absent = every.difference(*(asked[name] for name in rows["run"].unique()))
        kept = [name for name in map(str, rows) if name.rpartition(" ")[0] not in absent]
        yield ", ".join(f"{axis.replace('_', ' ')} {level}" for axis, level in zip(axes, levels)), rows[kept]


def method_means(
    students: pd.DataFrame, names: Sequence[str] | None = None, *, subtasks: int | None = None
) -> pd.DataFrame:
    """One row a method: `COUNTS`, and the mean "X" of each quantity with its interval "X low", "X high".

    names     columns of `student_table`; None: `quantities`
    subtasks  how many the study has; None: as many as are in the table

    All methods are averaged over the same subtasks and seeds: one in which a method has no student, or no value, is
    left out of all (a method without any value does not count). Counts are the most that a quantity has.
    With several subtasks in the study the interval speaks for other subtasks, with one for other seeds.
    """
    return _means_of(students, {name: value_range(name) for name in names or quantities(students)}, subtasks)


def difference_table(
    students: pd.DataFrame, claim: str = "", control: str = "", *, subtasks: int | None = None
) -> pd.DataFrame:
    """One row a quantity and pair of methods: a, b, quantity, difference (a - b), low, high, columns of `family_table`.

    claim     the method that is said to be above every other: pairs of it alone, tested one-sided
    control   the method that every other is held against: pairs with it alone, two-sided; without either all pairs
    subtasks  how many the study has; None: as many as are in the table

    Units are the subtasks where the study has several (each one's mean over its seeds), else the seeds; a pair is
    compared on those that both of its methods have. All pairs of one quantity are a family. Lifts are left out: their
    differences are those of the scores.
    """
    methods = list(students["method"].unique())
    if claim:
        pairs = [(claim, other) for other in methods if other != claim]
    elif control:
        pairs = [(other, control) for other in methods if other != control]
    else:
        pairs = list(combinations(methods, 2))
    several = _several(students, subtasks)
    unit: Unit = "subtasks" if several else "seeds"
    parts = []
    for name in quantities(students):
        if name.endswith(" lift"):
            continue
        tests: dict[tuple[str, str], RankTest] = {}
        rows: list[tuple[object, ...]] = []
        for a, b in pairs:
            gap = _grid(students[students["method"] == a], name) - _grid(students[students["method"] == b], name)
            units = gap.mean(axis=1) if several else gap.to_numpy().ravel()
            one = _interval(gap, several)
            tests[a, b] = signed_rank(units, alternative="greater" if claim else "two-sided")
            rows.append((a, b, name, one.mean, one.low, one.high, one.speaks_for))
        table = pd.DataFrame(rows, columns=["a", "b", "quantity", "difference", "low", "high", "speaks_for"])
        parts.append(table.join(family_table(tests, unit=unit).reset_index(drop=True)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def rank_table(students: pd.DataFrame, *, subtasks: int | None = None) -> pd.DataFrame:
    """As `method_means`, of the ranks of methods by each of `quantities` in a subtask and seed, 1 being the highest."""
    ranks = students[["run", "method", "seed"]].copy()
    for name in quantities(students):
        ranks[name] = _comparable(students, name).groupby(["run", "seed"])[name].rank(ascending=False)
    return _means_of(ranks, dict.fromkeys(quantities(students), (1, students["method"].nunique())), subtasks)


def power_notes(tests: pd.DataFrame, alternative: Alternative = "two-sided") -> list[str]:
    """What would be needed where nothing could be significant, each sentence once; a quantity's tests are a family."""
    if tests.empty:
        return []
    families = (family for _, family in tests.groupby("quantity", sort=False))
    notes = [power_note(family, alternative=alternative) for family in families]
    return list(dict.fromkeys(note for note in notes if note))


def _several(students: pd.DataFrame, subtasks: int | None) -> bool:
    """Whether subtasks are the units."""
    return (students["run"].nunique() if subtasks is None else subtasks) > 1


def _means_of(
    rows: pd.DataFrame, bounds: Mapping[str, tuple[float, float]], subtasks: int | None = None
) -> pd.DataFrame:
    """A row a method: the mean of each quantity with its interval, cut at its least and greatest value."""
    several = _several(rows, subtasks)
    comparable = {name: _comparable(rows, name) for name in bounds}
    means = []
    for method in rows["method"].unique():
        row: dict[str, object] = {"method": method, "subtasks": 0, "seeds": 0, "students": 0}
        for name, (least, most) in bounds.items():
            own = comparable[name][comparable[name]["method"] == method]
            one = _interval(_grid(own, name), several).within(least, most)
            counts = {"subtasks": own["run"].nunique(), "seeds": own["seed"].nunique(), "students": len(own)}
            row |= {of: max(int(str(row[of])), count) for of, count in counts.items()}
            row.setdefault("speaks_for", one.speaks_for)
            row |= interval_columns(name, one)
        means.append(row)
    return pd.DataFrame(means)


def _comparable(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows of subtasks and seeds in which every method has a value, methods without any value aside."""
    grid = rows.pivot(index="method", columns=["run", "seed"], values=quantity).astype(float)
    complete = grid.columns[common_images(grid.to_numpy())]
    return rows[pd.MultiIndex.from_frame(rows[["run", "seed"]]).isin(complete) & rows[quantity].notna()]


def _interval(grid: pd.DataFrame, several: bool) -> Interval:
    """Of values, subtasks by seeds; a subtask that is left of several speaks for itself alone."""
    if not several:
        return subtask_interval(grid)
    found = seed_interval(grid.mean(axis=1))
    return replace(found, speaks_for=speaks_for(2, found.n) if found.n > 1 else "this subtask")


def _students(run: Run) -> pd.DataFrame:
    outputs, labels = load_outputs(run)
    chances = {name: probabilities(logits) for name, logits in outputs.items()}
    scores = run.scores()
    means = {explainer: _means(scores, explainer, run.metric) for explainer in run.explainers}
    rows = []
    for key in run.keys:
        own = functional_comparison(chances[TEACHER], chances[str(key)], labels)
        own["log_loss"] = float(cross_entropy(outputs[str(key)].double(), labels))  # finite, also where p is 0
        row: dict[str, object] = {"method": key.method_name, "seed": key.seed, "accuracy": own.pop("accuracy")}
        row |= {"agreement": 1 - own["disagreement"]} | own
        for explainer, mean in means.items():
            row[f"{explainer} {run.metric}"] = mean["matched"].get((key.method_name, key.seed), np.nan)
            row[f"{explainer} lift"] = mean["lift"].get((key.method_name, key.seed), np.nan)
        rows.append(row | _transfer(chances, str(key), f"{CONTROL}/seed{key.seed}", labels))
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if str(name).endswith(" lift") and table[name].isna().all()])


def _means(scores: pd.DataFrame, explainer: str, metric: str) -> dict[str, dict[Any, float]]:
    """Mean score, and mean gain over the independent student, of each student, on the images that all have."""
    chosen = scores[(scores["explainer"] == explainer) & (scores["metric"] == metric)]
    tables = {
        pairing: part.pivot(index=["method", "seed"], columns="image", values="value")
        for pairing, part in chosen.groupby("pairing")
    }
    if "matched" not in tables:  # no student has a valid map
        return {"matched": {}, "lift": {}}
    matched = tables["matched"]
    common = matched.loc[:, matched.dropna(how="all").notna().all()]
    independent = tables.get(INDEPENDENT)
    lift = pd.Series(dtype=float) if independent is None else (common - independent[common.columns]).mean(axis=1)
    return {"matched": common.mean(axis=1).to_dict(), "lift": lift.dropna().to_dict()}


def _transfer(outputs: dict[str, Tensor], student: str, control: str, labels: Tensor) -> dict[str, float]:
    if control not in outputs or student == control:
        return {}
    (row,) = transfer_table(outputs[TEACHER], [outputs[student]], [outputs[control]], labels).to_dict("records")
    return {str(name): float(value) for name, value in row.items()}


def _grid(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Subtasks (or the one run) by seeds."""
    return rows.pivot(index="run", columns="seed", values=quantity).astype(float)


def value_range(quantity: str) -> tuple[float, float]:
    """The least and greatest value that a mean of one of `quantities` can have."""
    metric = quantity.rpartition(" ")[2]
    if metric in METRICS:
        return METRICS[metric].range
    return (0, 1) if quantity in ("accuracy", "agreement") else (-np.inf, np.inf)


def _metric(students: pd.DataFrame) -> str:
    return next((str(name).rpartition(" ")[2] for name in students if " " in str(name)), "cosine")

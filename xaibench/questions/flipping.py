"""Cross flipping of a finished run: curves, their figure, and a table of how far the teacher's order carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from xaibench.errors import unknown_name
from xaibench.progress import progress
from xaibench.questions.question import Question, attributions, choose, choose_students, command
from xaibench.run.answers import facts
from xaibench.run.drawing import flipping_of
from xaibench.run.folder import TEACHER, Run, file_name
from xaibench.run.job import StudentKey
from xaibench.run.pipeline import reopen
from xaibench.similarity.cross_flip import CrossFlip, cross_flip, cross_ratio, curve_table
from xaibench.similarity.fills import FILLS
from xaibench.similarity.flipping import FlipCurve
from xaibench.similarity.intervals import common_images, mean_interval
from xaibench.similarity.patch_order import patch_side
from xaibench.validation import checked

__all__ = ["flip_footnote", "flip_run", "flip_table"]

_ORDERS = ("own", "teacher", "random")


@checked
def flip_run(
    run: Run,
    *,
    explainer: str | None = None,
    fill: str = "inpaint",
    grid: int | None = None,
    images: int | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Flip the run's explained images under teacher and students; return `flip_table`.

    explainer  whose heatmaps give the orders; None: the run's first
    fill       "inpaint", "blur", "mean" or "black"
    grid       patches a side; None: the run's grid for scores
    images     how many of the explained images, evenly over their list; None: all
    methods    methods of the run; None: all
    seeds      training seeds of the run; None: all
    steps      steps of a curve; None: one patch a step
    device     where copies of the models work, None: the CPU; no part of the question

    Writes flipping-EXPLAINER-FILL.csv (curves: model, order, measure, fill, fraction, mean, low, high, n, nan),
    flipping-EXPLAINER-FILL-auc.csv (one row a student, order and image), the first as .pdf and .png too (the teacher
    and up to 5 methods, evenly from most to least alike), and a record; other options than the defaults stand in the
    names. An answer that still stands is read back (`Question`).

    Curves of a student whose explanation was refused are undefined: it is counted in the table's `nan`. Raises
    RunFolderError where results are missing or out of date, ExplanationError where no student has a valid explanation,
    UnknownNameError for names that the run does not have or a fill that there is not, ConfigError for a grid or a
    number of images out of range, and an unknown device.
    """
    (explainer,) = choose("explainer of this run", [explainer or run.explainers[0]], run.explainers)
    if fill not in FILLS:
        raise unknown_name("fill", fill, FILLS)
    _, height, width = run.images.shape
    usual = patch_side(height, width, run.config.similarity.grid)
    grid = usual if grid is None else patch_side(height, width, grid)
    run.require_images(images)
    students = choose_students(run, methods, seeds)
    keys = [key for group in students.values() for key in group]
    chosen = list(dict.fromkeys(key.seed for key in keys))
    n = len(run.images)
    rows = np.linspace(0, n - 1, images or n).round().astype(int).tolist()
    names = [run.images.keys[row] for row in rows]
    other_grid = None if grid == usual else grid
    fewer = len(rows) if len(rows) < n else None
    some_methods = list(students) if len(students) < len(run.config.methods) else []
    some_seeds = chosen if len(chosen) < len(run.config.seeds) else []
    defaults = {"similarity.grid": other_grid, "methods": some_methods, "seeds": some_seeds}
    about = {
        "config": ["data.seed", *(name for name, other in defaults.items() if not other)],
        "maps": {explainer: [TEACHER, *map(str, keys)]},
    }
    question = Question(
        run.folder,
        f"flipping-{file_name(explainer)}-{file_name(fill)}",
        {"explainer": explainer, "fill": fill, "grid": grid, "steps": steps, "images": names},
        facts(run, about),
        (
            other_grid and f"{grid}x{grid}",
            fewer and f"{fewer}images",
            steps and f"{steps}steps",
            " ".join(some_methods),
            some_seeds and f"seed{'_'.join(map(str, some_seeds))}",
        ),
        command(
            "flip",
            "RUN",
            explainer=explainer,
            fill=fill,
            grid=other_grid,
            images=fewer,
            steps=steps,
            method=some_methods,
            seed=some_seeds,
        ),
    )
    answer = question.answer()
    if answer is None:
        flips = _flip(run, keys, explainer, rows, fill=fill, grid=grid, steps=steps, device=device)
        curves = _curves(flips)
        tables = {question.stem: curves, f"{question.stem}-auc": _aucs(flips, keys, names)}
        answer = question.keep(tables, {question.stem: flipping_of(run, curves, explainer)})
    return flip_table(answer[f"{question.stem}-auc"], seed=run.config.data.seed)


def flip_table(aucs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row a method: mean AUCs of its curves and how far the teacher's order carries, with 95% intervals.

    aucs  columns method (the teacher's rows: "teacher"), seed, order, image, auc

    own, teacher order, random: mean output over the flipping in that order; lower means that the patches removed first
    mattered more. gain: random - own; where its interval reaches 0 the model's heatmaps find what it relies on no
    better than chance. difference: teacher order - own. cross ratio: see `cross_flip.cross_ratio`. Each with "X low",
    "X high". All over the n curves (images times seeds) of the images that have one in every order, of every method's
    every seed; nan counts the method's undefined ones.
    """
    images = aucs["image"].unique()
    stacks = {}
    for method, part in aucs.groupby("method", sort=False):
        by_order = {order: part[part["order"] == order] for order in _ORDERS if order in set(part["order"])}
        stacks[method] = dict(zip(by_order, np.stack([_matrix(one, images) for one in by_order.values()])))
    common = common_images(*(np.sum(list(values.values()), axis=0) for values in stacks.values()))
    rows = []
    for method, stack in stacks.items():
        values = {order: np.where(common, auc, np.nan) for order, auc in stack.items()}
        measures = {"teacher order" if order == "teacher" else order: auc for order, auc in values.items()}
        measures["gain"] = values["random"] - values["own"]
        if "teacher" in values:
            measures["difference"] = values["teacher"] - values["own"]
        intervals = {name: mean_interval(auc, seed=seed) for name, auc in measures.items()}
        if "teacher" in values:
            intervals["cross ratio"] = cross_ratio(values["own"], values["teacher"], values["random"], seed=seed)
        row: dict[str, object] = {"method": method}
        for name, interval in intervals.items():
            row |= {name: interval.mean, f"{name} low": interval.low, f"{name} high": interval.high}
        undefined = np.isnan(np.sum(list(stack.values()), axis=0))
        rows.append(row | {"n": intervals["own"].n, "nan": int(undefined.sum())})
    table = pd.DataFrame(rows)
    return table[[*(c for c in table.columns if c not in ("n", "nan")), "n", "nan"]]


def flip_footnote(table: pd.DataFrame) -> str:
    """Why some methods of a `flip_table` have no cross ratio or no interval of it, in one line; "" where all have."""
    if "cross ratio" not in table:
        return ""
    lacking = table["cross ratio low"].isna() & table["own low"].notna() & table["teacher order"].notna()
    names = ", ".join(table.loc[lacking, "method"])
    why = "its own order is no better than random, or not in enough of the resamples"
    return f"no cross ratio or no interval of it for {names}: {why}" if names else ""


def _flip(
    run: Run, students: Sequence[StudentKey], explainer: str, rows: list[int], **options: Any
) -> dict[StudentKey, CrossFlip]:
    teacher, maps = attributions(run, students, explainer)
    pair = reopen(run)[1].pair
    x = run.preprocessing(run.images.take(rows).images)
    asked = teacher.take(rows)
    flips: dict[StudentKey, CrossFlip] = {}
    known: dict[str, FlipCurve] | None = None
    with progress("cross flipping", len(students)) as advance:
        for key, found in zip(students, maps):
            if found is not None:
                own = found.take(rows)
                flips[key] = cross_flip(
                    pair.with_student(run.student(str(key))),
                    x,
                    asked.scored_heatmaps,
                    own.scored_heatmaps,
                    asked.target,
                    student_target=own.target,
                    teacher=known,
                    seed=run.config.data.seed,
                    **options,
                )
                known = flips[key].teacher
            advance(note=str(key))
    return flips


def _curves(flips: Mapping[StudentKey, CrossFlip]) -> pd.DataFrame:
    groups: dict[str, list[CrossFlip]] = {}
    for key, flip in flips.items():
        groups.setdefault(key.method_name, []).append(flip)
    tables = [curve_table(group, name, None if i else TEACHER) for i, (name, group) in enumerate(groups.items())]
    return pd.concat(tables, ignore_index=True)


def _aucs(flips: Mapping[StudentKey, CrossFlip], students: Sequence[StudentKey], images: list[str]) -> pd.DataFrame:
    teacher = next(iter(flips.values())).teacher
    parts = [(TEACHER, 0, order, curve.auc) for order, curve in teacher.items()]
    undefined = np.full(len(images), np.nan)
    for key in students:
        aucs = {order: flips[key].student[order].auc if key in flips else undefined for order in _ORDERS}
        parts += [(key.method_name, key.seed, order, auc) for order, auc in aucs.items()]
    columns = ("method", "seed", "order", "auc")
    tables = [pd.DataFrame(dict(zip(columns, part)), index=pd.Index(images, name="image")) for part in parts]
    return pd.concat(tables).reset_index()


def _matrix(part: pd.DataFrame, images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    # (S, N): a row a seed.
    return part.pivot(index="seed", columns="image", values="auc")[images].to_numpy(dtype=np.float64)

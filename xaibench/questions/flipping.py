"""Cross flipping of a finished run: curves, their figure, and a table of how far the teacher's order carries."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from xaibench.attribution.result import Attribution
from xaibench.errors import RunFolderError, unknown_name
from xaibench.figures.flipping import flip_figure
from xaibench.figures.style import save_figure
from xaibench.files import write_json, write_text
from xaibench.models.checkpoints import state_hash
from xaibench.progress import progress
from xaibench.run.folder import Run, file_name, variant
from xaibench.run.inputs import Assets, load_assets
from xaibench.run.manifest import library_versions
from xaibench.run.page import spread_methods
from xaibench.similarity.cross_flip import CrossFlip, cross_flip, cross_ratio, curve_table
from xaibench.similarity.fills import FILLS
from xaibench.similarity.flipping import FlipCurve
from xaibench.similarity.intervals import bootstrap_seeds
from xaibench.similarity.patch_order import patch_side

__all__ = ["flip_footnote", "flip_run", "flip_table"]

_log = logging.getLogger(__name__)

_SHOWN = 5  # students in the figure, beside the teacher
_ORDERS = ("own", "teacher", "random")


def flip_run(
    run: Run,
    assets: Assets | None = None,
    *,
    explainer: str | None = None,
    fill: str = "inpaint",
    grid: int | None = None,
    images: int | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
) -> pd.DataFrame:
    """Flip the run's explained images under teacher and students; return `flip_table`.

    assets     what the run works on, where it is loaded already
    explainer  whose heatmaps give the orders; None: the run's first
    fill       "inpaint", "blur", "mean" or "black"
    grid       patches a side; None: the run's grid for scores
    images     how many of the explained images, evenly over their list; None: all
    methods    methods of the run; None: all
    seeds      training seeds of the run; None: all
    steps      steps of a curve; None: one patch a step

    Writes flipping-EXPLAINER-FILL.csv (curves: model, order, measure, fill, fraction, mean, low, high, n, nan),
    flipping-EXPLAINER-FILL-auc.csv (one row a model, order and image), both as .pdf and .png (the teacher and up to 5
    methods, evenly from most to least alike), and a .json with options, weights and versions; other options than the
    defaults stand in the names (`variant`). Where the .json says the same as would be written now, the curves are read
    back instead of computed.

    Students without a valid explanation are left out with a warning. Raises RunFolderError where results are missing or
    were made with other weights, UnknownNameError for names that the run does not have or a fill that there is not,
    ConfigError for a grid or a number of images out of range.
    """
    explainer = explainer or run.explainers[0]
    if fill not in FILLS:
        raise unknown_name("fill", fill, FILLS)
    _, height, width = run.images.shape
    usual = patch_side(height, width, run.config.similarity.grid)
    grid = usual if grid is None else patch_side(height, width, grid)
    run.require_images(images)
    methods, seeds = _known(methods, run.config.methods, "method"), _known(seeds, run.config.seeds, "seed")
    teacher = run.attribution("teacher", explainer)
    students = _students(run, explainer, methods, seeds)
    rows = np.linspace(0, len(teacher) - 1, len(teacher) if images is None else images).round().astype(int).tolist()
    keys = [run.images.keys[row] for row in rows]
    weights = {name: attribution.model_hash for name, attribution in {"teacher": teacher, **students}.items()}
    about: dict[str, Any] = {"explainer": explainer, "fill": fill, "grid": grid, "steps": steps, "images": keys}
    about |= {"weights": weights, "versions": library_versions()}
    asked = variant(
        grid != usual and f"{grid}x{grid}",
        len(rows) < len(teacher) and f"{len(rows)}images",
        steps and f"{steps}steps",
        methods != list(run.config.methods) and " ".join(methods),
        seeds != list(run.config.seeds) and f"seed{'_'.join(map(str, seeds))}",
    )
    stem = run.folder / f"flipping-{file_name(explainer)}-{file_name(fill)}{asked}"
    aucs = _stored(stem, about)
    if aucs is None:
        assets = assets or load_assets(run.config)
        flips = _flip(run, assets, teacher, students, rows, fill=fill, grid=grid, steps=steps)
        aucs = _write(run, stem, explainer, flips, keys)
        write_json(stem.with_name(f"{stem.name}.json"), about)
    return flip_table(aucs, seed=run.config.data.seed)


def flip_table(aucs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row a model: mean AUCs of its curves and how far the teacher's order carries, with 95% intervals.

    aucs  columns model ("teacher", "kd/seed0"), order, image, auc

    own, teacher order, random: mean output over the flipping in that order; lower means that the patches removed first
    mattered more. gain: random - own; where its interval reaches 0 the model's heatmaps find what it relies on no
    better than chance. difference: teacher order - own. cross ratio: see `cross_flip.cross_ratio`. Each with "X low",
    "X high". All over the same n images (times seeds): those with a curve in every order; nan others are left out.
    """
    rows = []
    for method, part in aucs.groupby(aucs["model"].map(_method), sort=False):
        have = [order for order in _ORDERS if order in set(part["order"])]
        stacked = np.stack([_matrix(part[part["order"] == order]) for order in have])
        stacked[:, np.isnan(stacked).any(axis=0)] = np.nan
        values = dict(zip(have, stacked))
        measures = {"teacher order" if order == "teacher" else order: auc for order, auc in values.items()}
        measures["gain"] = values["random"] - values["own"]
        if "teacher" in values:
            measures["difference"] = values["teacher"] - values["own"]
        intervals = {name: bootstrap_seeds(auc, seed=seed) for name, auc in measures.items()}
        if "teacher" in values:
            intervals["cross ratio"] = cross_ratio(values["own"], values["teacher"], values["random"], seed=seed)
        row: dict[str, object] = {"method": method}
        for name, interval in intervals.items():
            row |= {name: interval.mean, f"{name} low": interval.low, f"{name} high": interval.high}
        rows.append(row | {"n": intervals["own"].n, "nan": intervals["own"].nan})
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
    run: Run, assets: Assets, teacher: Attribution, students: dict[str, Attribution], rows: list[int], **options: Any
) -> dict[str, CrossFlip]:
    x = run.preprocessing(run.images.take(rows).images)
    asked = teacher.take(rows)
    _require_weights(run, "teacher", assets.pair.teacher, teacher)
    flips: dict[str, CrossFlip] = {}
    known: dict[str, FlipCurve] | None = None
    with progress("cross flipping", len(students)) as advance:
        for name, attribution in students.items():
            model, own = run.student(name), attribution.take(rows)
            _require_weights(run, name, model, attribution)
            flips[name] = cross_flip(
                assets.pair.with_student(model),
                x,
                asked.scored_heatmaps,
                own.scored_heatmaps,
                asked.target,
                student_target=own.target,
                teacher=known,
                seed=run.config.data.seed,
                **options,
            )
            known = flips[name].teacher
            advance(note=name)
    return flips


def _write(run: Run, stem: Path, explainer: str, flips: dict[str, CrossFlip], keys: Sequence[str]) -> pd.DataFrame:
    parts: dict[str, list[CrossFlip]] = {}
    for name, flip in flips.items():
        parts.setdefault(_method(name), []).append(flip)
    tables = [curve_table(p, method, None if i else "teacher") for i, (method, p) in enumerate(parts.items())]
    curves = pd.concat(tables, ignore_index=True)
    write_text(stem.with_name(f"{stem.name}.csv"), curves.to_csv(index=False))
    teacher = next(iter(flips.values())).teacher
    all_curves = {"teacher": teacher, **{name: flip.student for name, flip in flips.items()}}
    aucs = pd.concat(
        [
            pd.DataFrame({"model": name, "order": order, "image": keys, "auc": curve.auc})
            for name, by_order in all_curves.items()
            for order, curve in by_order.items()
        ],
        ignore_index=True,
    )
    write_text(stem.with_name(f"{stem.name}-auc.csv"), aucs.to_csv(index=False))
    shown = list(parts)
    if len(shown) > _SHOWN:
        shown = spread_methods(run.summary(), explainer, tuple(shown), _SHOWN)
    save_figure(flip_figure(curves[curves["model"].isin(["teacher", *shown])]), stem)
    return aucs


def _stored(stem: Path, about: dict[str, Any]) -> pd.DataFrame | None:
    paths = [stem.with_name(f"{stem.name}{end}") for end in (".json", ".csv", "-auc.csv", ".pdf", ".png")]
    if not all(path.is_file() for path in paths):
        return None
    try:
        if json.loads(paths[0].read_text(encoding="utf-8")) != about:
            return None
        aucs = pd.read_csv(paths[2], dtype={"image": str})
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read and is made again: %s", stem.name, error)
        return None
    return aucs if set(aucs) == {"model", "order", "image", "auc"} else None


def _students(run: Run, explainer: str, methods: Sequence[str], seeds: Sequence[int]) -> dict[str, Attribution]:
    found = {}
    for name in (f"{method}/seed{seed}" for method in methods for seed in seeds):
        if run.attribution_path(name, explainer).is_file():
            found[name] = run.attribution(name, explainer)
        else:
            _log.warning("%s has no valid explanation by %s and is left out", name, explainer)
    if not found:
        raise RunFolderError(f"no student of {run.folder} was explained by {explainer}: run 'xaibench explain' first")
    return found


def _known(given: Sequence[Any] | None, have: Sequence[Any], kind: str) -> list[Any]:
    for name in given or ():
        if name not in have:
            raise unknown_name(f"{kind} of this run", name, map(str, have))
    return [name for name in have if given is None or name in given]


def _require_weights(run: Run, name: str, model: nn.Module, attribution: Attribution) -> None:
    if state_hash(model) != attribution.model_hash:
        raise RunFolderError(f"{name} was explained with other weights: run 'xaibench explain {run.folder}' again")


def _method(model: str) -> str:
    return model.rpartition("/seed")[0] or model


def _matrix(part: pd.DataFrame) -> npt.NDArray[np.float64]:
    # (S, N): a row a seed, columns in the images' order.
    return part.pivot(index="model", columns="image", values="auc").to_numpy(dtype=np.float64)

"""The kinds of figures of a run: what draws each, and which choices it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from xaibench.errors import RunFolderError
from xaibench.figures.cues import cues_figure
from xaibench.figures.dimension import dimension_figure
from xaibench.figures.influence import influence_figure
from xaibench.figures.inside import inside_figure
from xaibench.figures.names import method_label
from xaibench.figures.pooling import pooling_figure
from xaibench.figures.spectra import spectra_figure
from xaibench.figures.students import students_figure
from xaibench.models.architectures import build_model
from xaibench.models.layer_outputs import evaluating, forward_with_layers
from xaibench.models.layer_pairs import parse_layers
from xaibench.run.answers import command_of, read_answer, read_record, up_to_date
from xaibench.run.costs import STUDENT, costs_of
from xaibench.run.drawing import (
    first_students,
    flipping_of,
    gallery_of,
    history_of,
    league_of,
    scores_of,
    similarity_of,
    spread_images,
    spread_methods,
)
from xaibench.run.folder import TEACHER, Run
from xaibench.run.inputs import load_assets
from xaibench.run.ledger import digest
from xaibench.subspace.moments import load_moments

__all__ = ["KINDS", "Asked", "Kind"]


@dataclass(frozen=True)
class Asked:
    """A figure that is asked for; None stands for the figure's own choice.

    drawing  names and width, as every figure takes them
    """

    run: Run
    explainer: str | None
    methods: list[str] | None
    images: list[str] | None
    rows: int | None
    drawing: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The explainer, by default the run's first."""
        return self.explainer or self.run.explainers[0]

    @property
    def explainers(self) -> list[str] | None:
        return self.explainer and [self.explainer]  # type: ignore[return-value]

    @property
    def shown(self) -> list[str]:
        """The methods, by default a few evenly from most to least alike."""
        run, every = self.run, tuple(first_students(self.run))
        return self.methods or spread_methods(run.summary(), self.first, every, metric=run.metric)


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows, how it is drawn, which choices it takes, and its width by default."""

    shows: str
    draw: Callable[[Asked], Figure]
    takes: tuple[str, ...] = ()
    width: str = "double"


def _gallery(asked: Asked) -> Figure:
    run, explainer = asked.run, asked.first
    first, valid = first_students(run), run.explained(explainer)
    methods = asked.methods or [name for name in asked.shown if first[name] in valid]
    images = asked.images or spread_images(run, explainer, asked.rows or 6)
    return gallery_of(run, explainer, {name: first[name] for name in methods}, images, **asked.drawing)


def _flipping(asked: Asked) -> Figure:
    record, curves = _answer(asked, "flipping-*", "flip")
    explainer = record["options"]["explainer"]
    return flipping_of(asked.run, curves, explainer, asked.methods, **asked.drawing)


def _pooling(asked: Asked) -> Figure:
    record, table = _answer(asked, "pooling-*", "pooling")
    drawn = table[table["seeds"] > 0]
    curves = {str(method): curve for method, curve in drawn.groupby("method", sort=False)}
    curves = {name: curve for name, curve in curves.items() if name in (asked.methods or curves)}
    return pooling_figure(curves, record["options"]["metric"], **asked.drawing)


def _inside(asked: Asked) -> Figure:
    table = _answer(asked, "inside*", "inside")[1]
    if asked.methods is not None:
        table = table[table["method"].isin([TEACHER, *asked.methods])]
    return inside_figure(table, **asked.drawing)


def _cues(asked: Asked) -> Figure:
    table = _answer(asked, "cues", "cues", "CONFIG", "--out")[1]
    if asked.explainer is not None:
        table = table[table["explainer"].isin(["-", asked.explainer])]
    if asked.methods is not None:
        table = table[table["method"].isin([TEACHER, *asked.methods])]
    return cues_figure(table, **asked.drawing)


def _students(asked: Asked) -> Figure:
    costs = costs_of(asked.run).set_index("model")[["parameters", "macs"]]
    table = asked.run.table()
    if asked.methods is not None:
        table = table[table["method"].isin([TEACHER, *asked.methods])]
    rows = costs.loc[[TEACHER if name == TEACHER else STUDENT for name in table["method"]]].reset_index(drop=True)
    return students_figure(pd.concat([table.reset_index(drop=True), rows], axis=1), **asked.drawing)


def _spectra(asked: Asked) -> Figure:
    run = asked.run
    hashes, layers = run.manifest["hashes"], list(map(str, run.manifest["layers"]))
    source = digest(hashes["teacher"], hashes["train"], layers)
    moments = load_moments(run.ledger.require("subspace.safetensors", "inside", source))
    spectra = {str(pair): moments[pair.teacher].spectrum for pair in parse_layers(layers)}
    return spectra_figure(spectra, widths=_student_widths(run), **asked.drawing)


def _influence(asked: Asked) -> Figure:
    run = asked.run
    weighted = {key: run.student_folder(str(key)) for key in run.keys}
    weighted = {key: kept for key, kept in weighted.items() if (kept.folder / "influence.csv").is_file()}
    key = next((key for key in weighted if key.method_name in (asked.methods or [key.method_name])), None)
    if key is None:
        raise RunFolderError(
            f"{run.folder} holds no such student whose training images were weighted: run 'xaibench run' with a method "
            "such as influence[kd]"
        )
    train = load_assets(run.config).task.train
    if weighted[key].about().get("hashes", {}).get("train") != train.content_hash():
        raise RunFolderError(f"the training images of {run.folder} changed since: restore them")
    table = read_answer(weighted[key].folder / "influence.csv")
    title = f"Influence of training images: {method_label(str(key), asked.drawing['names'])}"
    return influence_figure(
        train.images,
        table["weight"].to_numpy(),
        [asked.drawing["names"].get(name, name) for name in table["label"]],
        scores=table["influence"].to_numpy(),
        title=title,
        width=asked.drawing["width"],
    )


@torch.no_grad()
def _student_widths(run: Run) -> dict[str, int]:
    """Layer pair -> the channels that the students have there."""
    student = build_model(run.config.student.architecture, len(run.classes), run.preprocessing.channels)
    pairs = parse_layers(run.manifest["layers"])
    with evaluating(student):
        x = run.preprocessing(run.images.images[:1])
        outputs = forward_with_layers(student, x, tuple(dict.fromkeys(pair.student for pair in pairs)))
    return {str(pair): outputs.layers[pair.student].shape[1] for pair in pairs}


def _answer(asked: Asked, stem: str, *command: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The record and main table of an answer that lies in the run folder, by default the one with the fewest options.

    command  what makes it, without the run
    """
    run = asked.run
    words = [*command, "RUN"]
    if asked.explainer is not None and command[0] != "cues":
        words += ["--explainer", asked.explainer]
    paths = sorted(run.folder.glob(f"{stem}.json"), key=lambda path: (len(path.stem), path))
    found = [(path, read_record(path)) for path in paths]
    fitting = [(path, record) for path, record in found if _of_explainer(record, asked.explainer)]
    for path, record in fitting:
        if up_to_date(run, record):
            return record, read_answer(path.with_suffix(".csv"))
    if fitting:
        raise RunFolderError(f"{fitting[0][0].stem} is out of date: run '{command_of(run, fitting[0][1], words)}'")
    raise RunFolderError(f"{run.folder} holds no such answer yet: run '{command_of(run, {}, words)}'")


def _of_explainer(record: Mapping[str, Any], explainer: str | None) -> bool:
    own = record.get("options", {}).get("explainer")
    return bool(record) and (explainer is None or own in (None, explainer))


KINDS = {
    "gallery": Kind(
        "heatmaps of teacher and students on one scale", _gallery, ("explainer", "methods", "images", "rows")
    ),
    "similarity": Kind(
        "scores with chance and nulls",
        lambda asked: similarity_of(asked.run, asked.shown, asked.explainers, **asked.drawing),
        ("explainer", "methods"),
    ),
    "league": Kind(
        "the table of methods", lambda asked: league_of(asked.run, asked.methods, **asked.drawing), ("methods",)
    ),
    "scores": Kind(
        "every score in one table",
        lambda asked: scores_of(asked.run, asked.shown, asked.explainers, **asked.drawing),
        ("explainer", "methods"),
    ),
    "history": Kind(
        "validation accuracy while the students learned",
        lambda asked: history_of(asked.run, asked.shown, **asked.drawing),
        ("methods",),
        "single",
    ),
    "flipping": Kind("answers while patches vanish", _flipping, ("explainer", "methods")),
    "inside": Kind("relevance and features in the teacher's subspace", _inside, ("methods",)),
    "layers": Kind(
        "the teacher's relevance in its subspace, layer by layer",
        lambda asked: inside_figure(_answer(asked, "inside*", "inside")[1], students=False, **asked.drawing),
    ),
    "spectra": Kind("variance of the teacher's layers in k directions", _spectra),
    "dimension": Kind(
        "the teacher's accuracy with layers projected on k directions",
        lambda asked: dimension_figure(_answer(asked, "dimension*", "dimension")[1], **asked.drawing),
    ),
    "pooling": Kind("likeness on coarser and finer grids", _pooling, ("explainer", "methods"), "single"),
    "influence": Kind("training images that helped and harmed", _influence, ("methods",)),
    "students": Kind("accuracy and agreement against what a model costs", _students, ("methods",)),
    "cues": Kind("reliance on a planted mark", _cues, ("explainer", "methods")),
}
"""Kind of figure -> what draws it."""

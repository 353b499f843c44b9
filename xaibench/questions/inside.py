"""Inside the models of a run: relevance in the teacher's subspace, and how alike the students' features and relevance
are to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaibench.attribution.explainers import parse_explainer
from xaibench.attribution.layers import LayerRelevance, direction_heatmaps, layer_relevance, lrp_or_gradient
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import ImageSet
from xaibench.distillation.distill import measure_moments
from xaibench.errors import ConfigError, unknown_name
from xaibench.figures.directions import directions_figure
from xaibench.figures.inside import inside_figure
from xaibench.figures.style import save_figure
from xaibench.files import write_text
from xaibench.models.layer_outputs import evaluating, forward_with_layers
from xaibench.models.layer_pairs import LayerPair
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.progress import progress
from xaibench.questions.inside_rows import BASIS, Seen, likeness_rows, share_rows
from xaibench.run.folder import UNTRAINED, Run, open_run, variant
from xaibench.run.inputs import Assets
from xaibench.run.pipeline import reopen
from xaibench.similarity.metrics.table import cosine, pool
from xaibench.similarity.representations import relevant_part
from xaibench.similarity.subspaces import Frame, FrameFit
from xaibench.subspace.bases import Basis, make_basis
from xaibench.subspace.moments import LayerMoments, load_moments

__all__ = ["inside_run"]

_LEAST = 4
_DIRECTIONS, _ROWS = 3, 4
_BATCH, _FITTED_ON = 64, 1000


def inside_run(
    run: Run | Path | str,
    assets: Assets | None = None,
    layers: Sequence[str] | None = None,
    k: int | None = None,
    methods: Sequence[str] | None = None,
    images: int | None = None,
    fss: bool = False,
) -> pd.DataFrame:
    """Measure relevance and features in the teacher's subspace (`prcaposdef`) for a finished run; write inside.csv,
    inside.{pdf,png} and directions.{pdf,png} into its folder and return the table. Other options than the defaults
    stand in the names (`variant`).

    assets   what the run works on; None: loaded, and checked to be what the run was made with
    layers   pairs to look at, by the teacher's or the student's name or as "teacher:student"; None: all
    k        leading directions in which students are compared; None: as many as their layers have channels
    methods  of the run; None: all
    images   how many of the explained images, evenly over the classes, at least 4; None: all
    fss      measure FSS too. Not by default, as it fails falsification: in the last layer it gives an untrained student
             as much as a distilled one

    Columns layer, method, measure, pairing, k, value, low, high, n, rule: values with 95% intervals over seeds and
    images (over seeds alone for the last three measures, see `seed_interval`), beside their controls, which `pairing`
    names. rule: "lrp", or "gradient x activation" where LRP is not valid for the teacher or the student's architecture.

    teacher   "relevance share" of its first k directions, of R = sum (U_k'a)'(U_k'c) with a = h - mu, and "uncentred
              share", the same with a = h, where the whole is what LRP distributes (`subspaces.relevance_shares`);
              against PCA and a random subspace
    students, and an untrained one, in k directions of both models
              "relevance cosine", "activation cosine"  per image, over directions and locations
              "direction cosine"      of relevance, of direction k alone
              "explained variance"    of the teacher's coordinates, up to one common scale
              "linear CKA"            over locations
              "distance correlation"  corrected, over images
              "FSS"                   over images, of all channels; where asked for
              against "random rotation" of the student's directions and "mismatched images"
              (a rotation leaves what all directions carry together at a location as it is, so relevance need not
              come out near 0)

    The student's directions are fitted to the teacher's on up to 1000 training images (`FrameFit`): checkpoints keep
    no rotation, and most methods have none. All heatmaps ask for the label against the teacher's runner-up.

    Raises RunFolderError for a folder that holds no run or lacks a student, UnknownNameError for methods and layers
    that the run does not have, ConfigError for k or images out of range.
    """
    run = run if isinstance(run, Run) else open_run(run)
    run.require_images(images)
    models = _students(run, methods)
    chosen = list(models)
    assets = assets or reopen(run)[1]
    pair = assets.pair
    models[UNTRAINED] = [assets.student_pair(max(run.config.seeds) + 1).student.eval()]
    models = {method: [pair.with_student(model).student for model in group] for method, group in models.items()}
    everyone = [model for group in models.values() for model in group]
    pairs = _chosen(pair.layers, layers)
    pictures = run.images if images is None else run.images.sample(images, run.config.data.seed)
    if len(pictures) < _LEAST:
        raise ConfigError(f"{len(pictures)} images are too few to compare features over images: take {_LEAST} or more")
    x = pair.preprocessing(pictures.images)
    target = make_target(predict_logits(pair.teacher, pictures, pair.preprocessing), pictures.labels)
    rule = _rule(run, [pair.teacher, everyone[0]], x, target)
    moments = _moments(run, assets)
    bases = _bases(assets, pairs, moments, k)
    seed = run.config.data.seed

    def look(model: nn.Module, names: dict[LayerPair, str], frames: dict[LayerPair, Frame]) -> dict[LayerPair, Seen]:
        found = layer_relevance(model, x, target, rule, pair.preprocessing, tuple(names.values()))
        kept = {name: _kept(model, x, name, layer) for name, layer in found.items()} if fss else {}
        return {p: Seen(found[name], frames[p].first(k), kept.get(name)) for p, name in names.items()}

    rows = []
    with progress("inside", 1 + len(everyone)) as advance:
        fitted = _fitted(pair, everyone, bases, assets.task.train.sample(_FITTED_ON, seed))
        frames = {p: Frame.of_basis(basis) for p, basis in bases.items()}
        teacher = look(pair.teacher, {p: p.teacher for p in pairs}, frames)
        advance(note="teacher")
        for p, seen in teacher.items():
            width = seen.frame.directions.shape[1]
            found = share_rows(seen.layer, moments[p.teacher], width, seed)
            rows += [{"layer": str(p), "method": "teacher"} | row for row in found]
        turn = iter(fitted)
        for method, group in models.items():
            students = []
            for model in group:
                students.append(look(model, {p: p.student for p in pairs}, next(turn)))
                advance(note=method)
            for p in pairs:
                found = likeness_rows(teacher[p], [student[p] for student in students], seed)
                rows += [{"layer": str(p), "method": method} | row for row in found]
    table = pd.DataFrame(rows).assign(rule="lrp" if rule else "gradient x activation")
    asked = variant(
        len(pairs) < len(pair.layers) and " ".join(map(str, pairs)),
        k and f"{k}directions",
        chosen != list(run.config.methods) and " ".join(chosen),
        len(pictures) < len(run.images) and f"{len(pictures)}images",
        fss and "fss",
    )
    write_text(run.folder / f"inside{asked}.csv", table.to_csv(index=False))
    save_figure(inside_figure(table), run.folder / f"inside{asked}")
    names = [method for method, group in models.items() for _ in group]
    shown = next((i for i, method in enumerate(names) if method.split(":")[0] == "subdistill"), 0)
    last = pairs[-1]
    ask = _Question(pair, pictures, target, rule)
    figure = _directions(ask, last, Frame.of_basis(bases[last]), everyone[shown], names[shown], fitted[shown][last])
    save_figure(figure, run.folder / f"directions{asked}")
    return table


class _Question(NamedTuple):
    pair: ModelPair
    images: ImageSet
    target: Target
    rule: LRP | None


def _directions(
    ask: _Question, layers: LayerPair, teacher_frame: Frame, student: nn.Module, name: str, student_frame: Frame
) -> Figure:
    rows = torch.linspace(0, len(ask.images) - 1, min(_ROWS, len(ask.images))).long()
    images, target = ask.images.take(rows), ask.target.take(rows)
    x = ask.pair.preprocessing(images.images)
    maps = []
    for model, layer, frame in (
        (ask.pair.teacher, layers.teacher, teacher_frame),
        (student, layers.student, student_frame),
    ):
        directions = frame.first(_DIRECTIONS).directions
        maps.append(direction_heatmaps(model, x, target, ask.rule, ask.pair.preprocessing, layer, directions).numpy())
    likeness = np.stack([cosine(pool(a), pool(b)) for a, b in zip(*(m.swapaxes(0, 1) for m in maps))], axis=1)
    classes = images.classes
    titles = [
        f"{classes[label]}\nrather than {classes[contrast]}"
        for label, contrast in zip(target.label.tolist(), target.contrast.tolist())
    ]
    return directions_figure(
        images.images.float() / 255,
        *maps,
        titles=titles,
        cosines=likeness,
        names=(f"teacher, {layers.teacher}", f"{name}, {layers.student}"),
    )


def _students(run: Run, methods: Sequence[str] | None) -> dict[str, list[nn.Module]]:
    for method in methods or ():
        if method not in run.config.methods:
            raise unknown_name("method of this run", method, run.config.methods)
    chosen = [method for method in run.config.methods if methods is None or method in methods]
    return {method: [run.student(f"{method}/seed{seed}") for seed in run.config.seeds] for method in chosen}


def _chosen(pairs: tuple[LayerPair, ...], names: Sequence[str] | None) -> list[LayerPair]:
    known = {name: pair for pair in pairs for name in (pair.student, pair.teacher, str(pair))}
    for name in names or ():
        if name not in known:
            raise unknown_name("layer pair of this run", name, known)
    return [pair for pair in pairs if not names or pair in {known[name] for name in names}]


def _rule(run: Run, models: Sequence[nn.Module], x: Tensor, target: Target) -> LRP | None:
    # The run's own LRP, if it has one; the same for all models, or likeness would compare two rules.
    options = (parse_explainer(text) for text in run.explainers)
    lrp = next((option for option in options if isinstance(option, LRP)), LRP())
    valid = [lrp_or_gradient(model, x, target, run.preprocessing, lrp) is not None for model in models]
    return lrp if all(valid) else None


def _moments(run: Run, assets: Assets) -> dict[str, LayerMoments]:
    path = run.folder / "subspace.safetensors"
    return load_moments(path) if path.is_file() else measure_moments(assets.pair, assets.task.train)


def _bases(
    assets: Assets, pairs: Sequence[LayerPair], moments: dict[str, LayerMoments], k: int | None
) -> dict[LayerPair, Basis]:
    _, height, width = assets.task.train.shape
    shapes = assets.pair.layer_shapes((height, width))
    least = min(shapes[p][1][0] for p in pairs)
    if k is not None and not 1 <= k <= least:
        raise ConfigError(f"k={k} directions cannot be compared: the student's narrowest layer has {least} channels")
    return {p: make_basis(moments[p.teacher], BASIS, shapes[p][1][0]) for p in pairs}


@torch.no_grad()
def _fitted(
    pair: ModelPair, students: Sequence[nn.Module], bases: dict[LayerPair, Basis], train: ImageSet
) -> list[dict[LayerPair, Frame]]:
    # One pass over the training images for all students and layers.
    fits = [{p: FrameFit(basis.vectors.shape[1]) for p, basis in bases.items()} for _ in students]
    teacher_layers, student_layers = (tuple(dict.fromkeys(names)) for names in zip(*bases))
    chunks = train.images.split(_BATCH)
    with progress("training images", len(chunks)) as advance, evaluating(*students):
        for chunk in chunks:
            x = pair.preprocessing(chunk)
            teacher = forward_with_layers(pair.teacher, x, teacher_layers).layers
            targets = {p: basis.project(teacher[p.teacher]) for p, basis in bases.items()}
            for student, own in zip(students, fits):
                maps = forward_with_layers(student, x, student_layers).layers
                for p, fit in own.items():
                    fit.update(maps[p.student], targets[p])
            advance()
    return [{p: fit.result() for p, fit in own.items()} for own in fits]


@torch.no_grad()
def _kept(model: nn.Module, x: Tensor, name: str, layer: LayerRelevance) -> Tensor:
    with evaluating(model):
        parts = relevant_part(x, layer.relevance.sum(dim=1)).split(_BATCH)
        return torch.cat([forward_with_layers(model, part, (name,)).layers[name] for part in parts])

"""Inside the models of a run: relevance in the teacher's subspace, and how alike the students' features and relevance
are to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from xaibench.errors import ConfigError
from xaibench.figures.directions import directions_figure
from xaibench.figures.inside import inside_figure
from xaibench.figures.names import method_label
from xaibench.models.layer_outputs import evaluating, forward_with_layers
from xaibench.models.layer_pairs import LayerPair, parse_layers
from xaibench.models.pair import ModelPair
from xaibench.models.predict import as_device, predict_logits
from xaibench.progress import progress
from xaibench.questions.inside_rows import BASIS, Seen, likeness_rows, share_rows
from xaibench.questions.question import Question, choose_layers, choose_students, command
from xaibench.run.answers import facts
from xaibench.run.folder import TEACHER, UNTRAINED, Run, file_name
from xaibench.run.inputs import Assets
from xaibench.run.job import StudentKey
from xaibench.run.pipeline import reopen
from xaibench.run.training import shared_moments
from xaibench.similarity.metrics.table import cosine, pool
from xaibench.similarity.representations import relevant_part
from xaibench.similarity.subspaces import Frame, FrameFit
from xaibench.subspace.bases import Basis, make_basis
from xaibench.subspace.moments import LayerMoments
from xaibench.validation import checked

__all__ = ["inside_run"]

_LEAST = 4
_DIRECTIONS, _ROWS = 3, 4
_BATCH, _FITTED_ON = 64, 1000


@checked
def inside_run(
    run: Run,
    *,
    layers: Sequence[str] | None = None,
    k: int | None = None,
    methods: Sequence[str] | None = None,
    images: int | None = None,
    fss: bool = False,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Measure relevance and features in the teacher's subspace (`prcaposdef`) for a finished run; write inside.csv,
    inside.{pdf,png} and directions.{pdf,png} into its folder and return the table. Other options than the defaults
    stand in the names. An answer that still stands is read back (`Question`).

    layers   pairs to look at, by the teacher's or the student's name or as "teacher:student"; None: all
    k        leading directions in which students are compared; None: as many as their layers have channels
    methods  of the run; None: all
    images   how many of the explained images, evenly over the classes, at least 4; None: all
    fss      measure FSS too. Not by default, as it fails falsification: in the last layer it gives an untrained student
             as much as a distilled one
    device   where the models work, None: the CPU; no part of the question

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

    Raises RunFolderError for a folder that lacks a student, UnknownNameError for methods and layers that the run does
    not have, ConfigError for k or images out of range and an unknown device.
    """
    run.require_images(images)
    students = choose_students(run, methods)
    known = parse_layers(run.manifest["layers"])
    pairs = choose_layers(run, layers)
    pictures = run.images if images is None else run.images.sample(images, run.config.data.seed)
    if len(pictures) < _LEAST:
        raise ConfigError(f"{len(pictures)} images are too few to compare features over images: take {_LEAST} or more")
    rule = _rule(run)
    trained = [str(key) for group in students.values() for key in group]
    some_layers = list(map(str, pairs)) if len(pairs) < len(known) else []
    some_methods = list(students) if len(students) < len(run.config.methods) else []
    fewer = len(pictures) if len(pictures) < len(run.images) else None
    about = {  # the untrained student's seed follows from `seeds`
        "config": ["data.seed", "explain.images", "seeds", *([] if some_methods else ["methods"])],
        "hashes": run.manifest["hashes"],
        "explainers": ["lrp"],
        "students": [f"students/{file_name(name)}" for name in trained],
    }
    question = Question(
        run.folder,
        "inside",
        {"layers": list(map(str, pairs)), "k": k, "images": pictures.keys, "fss": fss, "lrp": repr(rule)},
        facts(run, about),
        (
            " ".join(some_layers),
            k and f"{k}directions",
            " ".join(some_methods),
            fewer and f"{fewer}images",
            fss and "fss",
        ),
        command("inside", "RUN", layer=some_layers, k=k, method=some_methods, images=fewer, fss=fss),
    )
    answer = question.answer()
    if answer is None:
        table, directions = _look(
            run, pairs, pictures, students, rule, k, fss, as_device(device) or torch.device("cpu")
        )
        figures = {question.stem: inside_figure(table), f"directions{question.variant}": directions}
        answer = question.keep({question.stem: table}, figures)
    return answer[question.stem]


@dataclass(frozen=True, eq=False)
class _Asked:
    """The images and the question that all models are asked."""

    pair: ModelPair
    images: ImageSet
    x: Tensor
    target: Target
    rule: LRP | None

    @classmethod
    def create(cls, pair: ModelPair, images: ImageSet, lrp: LRP, device: torch.device) -> _Asked:
        """With LRP where it is valid for both models: one rule for all, or likeness would compare two rules."""
        x = pair.preprocessing(images.images.to(device))
        target = make_target(predict_logits(pair.teacher, images, pair.preprocessing), images.labels)
        rules = [lrp_or_gradient(model, x, target, pair.preprocessing, lrp) for model in (pair.teacher, pair.student)]
        return cls(pair, images, x, target, None if None in rules else lrp)

    def look(
        self, model: nn.Module, names: dict[LayerPair, str], frames: dict[LayerPair, Frame], k: int | None, fss: bool
    ) -> dict[LayerPair, Seen]:
        layers = tuple(names.values())
        found = layer_relevance(model, self.x, self.target, self.rule, self.pair.preprocessing, layers)
        kept = {name: _kept(model, self.x, name, layer) for name, layer in found.items()} if fss else {}
        return {p: Seen(found[name], frames[p].first(k), kept.get(name)) for p, name in names.items()}


def _look(
    run: Run,
    pairs: Sequence[LayerPair],
    images: ImageSet,
    students: dict[str, list[StudentKey]],
    lrp: LRP,
    k: int | None,
    fss: bool,
    device: torch.device,
) -> tuple[pd.DataFrame, Figure]:
    """The table, and the figure of single directions in the last layer."""
    assets = reopen(run)[1]
    moments, seed = shared_moments(run, assets), run.config.data.seed
    trained = {method: [run.student(str(key)) for key in group] for method, group in students.items()}
    models = trained | {UNTRAINED: [assets.student_pair(_untrained_seed(run)).student.eval()]}
    everyone = [(method, model) for method, group in models.items() for model in group]
    for model in (assets.pair.teacher, *(model for _, model in everyone)):  # loaded here, nobody else's
        model.to(device)
    ask = _Asked.create(assets.pair.with_student(everyone[0][1]), images, lrp, device)
    bases = _bases(assets, pairs, moments, k)
    rows: list[dict[str, Any]] = []
    with progress("inside", 1 + len(everyone)) as advance:
        train = assets.task.train.sample(_FITTED_ON, seed)
        fitted = _fitted(assets.pair, [model for _, model in everyone], bases, train, device)
        frames = {p: Frame.of_basis(basis) for p, basis in bases.items()}
        teacher = ask.look(assets.pair.teacher, {p: p.teacher for p in pairs}, frames, k, fss)
        advance(note=TEACHER)
        for p, seen in teacher.items():
            found = share_rows(seen.layer, moments[p.teacher], seen.frame.directions.shape[1], seed)
            rows += [{"layer": str(p), "method": TEACHER} | row for row in found]
        own = iter(fitted)
        for method, group in models.items():
            looks = []
            for model in group:
                looks.append(ask.look(model, {p: p.student for p in pairs}, next(own), k, fss))
                advance(note=method)
            for p in pairs:
                found = likeness_rows(teacher[p], [look[p] for look in looks], seed)
                rows += [{"layer": str(p), "method": method} | row for row in found]
    shown = next((i for i, (method, _) in enumerate(everyone) if method.split(":")[0] == "subdistill"), 0)
    (name, student), last = everyone[shown], pairs[-1]
    figure = _directions(ask, last, frames[last], student, name, fitted[shown][last])
    return pd.DataFrame(rows).assign(rule="lrp" if ask.rule else "gradient x activation"), figure


def _directions(
    ask: _Asked, layers: LayerPair, teacher_frame: Frame, student: nn.Module, name: str, student_frame: Frame
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
        names=(f"teacher, {layers.teacher}", f"{method_label(name)}, {layers.student}"),
    )


def _rule(run: Run) -> LRP:
    """The run's own LRP, if it has one."""
    options = (parse_explainer(text) for text in run.explainers)
    return next((option for option in options if isinstance(option, LRP)), LRP())


def _untrained_seed(run: Run) -> int:
    return max(run.config.seeds) + 1


def _bases(
    assets: Assets, pairs: Sequence[LayerPair], moments: Mapping[str, LayerMoments], k: int | None
) -> dict[LayerPair, Basis]:
    _, height, width = assets.task.train.shape
    shapes = assets.pair.layer_shapes((height, width))
    least = min(shapes[p][1][0] for p in pairs)
    if k is not None and not 1 <= k <= least:
        raise ConfigError(f"k={k} directions cannot be compared: the student's narrowest layer has {least} channels")
    return {p: make_basis(moments[p.teacher], BASIS, shapes[p][1][0]) for p in pairs}


@torch.no_grad()
def _fitted(
    pair: ModelPair, students: Sequence[nn.Module], bases: dict[LayerPair, Basis], train: ImageSet, device: torch.device
) -> list[dict[LayerPair, Frame]]:
    # One pass over the training images for all students and layers.
    fits = [{p: FrameFit(basis.vectors.shape[1]) for p, basis in bases.items()} for _ in students]
    teacher_layers, student_layers = (tuple(dict.fromkeys(names)) for names in zip(*bases))
    chunks = train.images.split(_BATCH)
    with progress("training images", len(chunks)) as advance, evaluating(*students):
        for chunk in chunks:
            x = pair.preprocessing(chunk.to(device))
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
        return torch.cat([forward_with_layers(model, part, (name,)).layers[name].cpu() for part in parts])

"""Distil one student from its pair's teacher, or train a teacher: the two jobs around the training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Setting
from xaibench.distillation.devices import as_ever, fabric_on, make_fabric, own_generators
from xaibench.distillation.distill_run import DistillRun
from xaibench.distillation.events import OnEpoch
from xaibench.distillation.measure import measure_moments
from xaibench.distillation.methods import Method, StudentOnly, method_name, parse_method
from xaibench.distillation.recipe import Recipe, parse_recipe
from xaibench.distillation.teacher_cache import (
    CachedTeacher,
    LiveTeacher,
    Remember,
    compute_afresh,
    recall,
    teacher_source,
    warn_of_chance,
)
from xaibench.distillation.trainer import Fit, StudentInput, fit
from xaibench.errors import ConfigError, DataError, ModelError, unknown_name
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import private_copy
from xaibench.models.folding import folded
from xaibench.models.memory_format import MemoryFormat, memory_format
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.models.trial import check_classifier, check_free
from xaibench.progress import silent_unless
from xaibench.subspace.moments import LayerMoments
from xaibench.validation import check_seed, checked

__all__ = ["DistillRun", "distill", "make_fabric", "measure_moments", "train_classifier"]


@checked
@as_ever()
def distill(
    pair: ModelPair,
    task: Task,
    method: Method | str = "subdistill",
    recipe: Recipe | str | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    folder: Path | str | None = None,
    measure: Callable[[], Mapping[str, LayerMoments]] | None = None,
    remember: Remember = compute_afresh,
    fabric: Fabric | None = None,
    on_epoch: OnEpoch | None = None,
    **recipe_fields: object,
) -> DistillRun:
    """Train a copy of the pair's student by `method` on the task's training images.

    method    SubDistill(), ... or a text ("kd:temperature=2", see `parse_method`)
    recipe    a Recipe or its text ("epochs=5,lr=2e-3"); None is Recipe(). Fields of it may be keywords: epochs=5
    seed      order of the data, augmentation, dropout and the method's learned parts, 0..2^31 - 1; the student's own
              initialisation is whatever the pair holds
    device    where to train: "cpu", "cuda", "cuda:1"; None is the best there is. The student comes back to where the
              pair's student is
    folder    keeps the state after each epoch in `resume.pt`, so that a killed job goes on where it was
    measure   gives the teacher's moments where a method needs them; None measures them here (`measure_moments`)
    remember  (what, compute) -> the teacher's logits as they were kept under the text `what`, which says what they
              depend on, else `compute()`, to be kept for other students; the default keeps nothing
    fabric    in place of `device`: a Fabric, for several devices or another precision
    on_epoch  called after each epoch with an `EpochState`, which can cancel the training

    The same seed gives the same bytes on one machine, whatever modes, default types or devices are set around the call;
    with dropout, as long as no other thread draws from torch's global generator. It is left as it was, and so is the
    pair. On several devices each process normalises its own part of a batch in the student's batch normalisation;
    SubDistill's centring is that of the whole batch.

    Raises ModelError where the pair's classes are not the task's, `Cancelled` where `on_epoch` cancelled.
    """
    method = parse_method(method) if isinstance(method, str) else method
    recipe, seed = _recipe(recipe, recipe_fields), check_seed(seed)
    if pair.classes != task.subtask.classes:
        raise ModelError(
            f"the pair decides between {list(pair.classes)} but the task between {list(task.subtask.classes)}: "
            "build the pair with the task's classes"
        )
    check_free("student", pair.student)
    started = time.perf_counter()
    fabric = _fabric(recipe, device, fabric)
    hashes = pair.hashes() | {
        "train": task.train.content_hash(),
        "validation": task.validation.content_hash(),
    }
    with own_generators(fabric.device), silent_unless(fabric.is_global_zero):
        device, train, data_seed = fabric.device, task.train, method.data_seed(seed)
        prepared = method.prepare(pair, seed)
        teacher = _copy_to(prepared.teacher, device)
        work = dataclasses.replace(prepared, teacher=teacher, student=_copy_to(prepared.student, device))
        if measure is None or prepared.teacher is not pair.teacher:
            measure = partial(measure_moments, work, train, fabric)
        sample = pair.preprocessing(train.images[:2].to(device))
        setting = Setting(work, sample, measure, train.labels, recipe.batch_size, recipe.epochs, seed)
        criterion = method.build(setting).to(device)
        if criterion.coupling and fabric.world_size > 1:
            raise ConfigError(
                f"{method_name(method)} cannot be trained on {fabric.world_size} devices: {criterion.coupling}. Use one"
            )
        inputs = StudentInput(train, pair.preprocessing, recipe, data_seed, device, memory_format(work.student))

        def predict() -> Tensor:
            asked = teacher if prepared.teacher is pair.teacher else _copy_to(pair.teacher, device)
            with fabric.autocast():
                return predict_logits(asked, task.validation, pair.preprocessing)

        own = {"teacher": hashes["teacher"], "preprocessing": repr(pair.preprocessing)}
        own |= {"precision": fabric.strategy.precision.precision, "device": device.type}
        classes = len(pair.classes)
        known = _text(own | {"images": hashes["validation"]})
        teacher_validation = recall(remember, known, (len(task.validation), classes), predict)
        source: CachedTeacher | LiveTeacher | None = None
        if criterion.needs_teacher:
            if prepared.teacher is pair.teacher:
                warn_of_chance(teacher_validation, task.validation.labels)
            quick = folded(teacher, sample, criterion.teacher_layers)
            form = memory_format(quick)
            live = LiveTeacher(form(quick), criterion, fabric.autocast, form)
            kept = remember if prepared.teacher is pair.teacher else compute_afresh
            known = _text(own | {"images": hashes["train"]} | inputs.description)
            source = teacher_source(
                live,
                inputs,
                len(train),
                recipe.cached_views,
                budget=int(recipe.cache_gb * 1e9),
                remember=partial(recall, kept, known, (recipe.cached_views * len(train), classes)),
            )
        result = fit(
            work.student,
            criterion,
            inputs,
            task.validation,
            source,
            fabric=fabric,
            seed=data_seed,
            teacher_validation=teacher_validation,
            resume=Path(folder) / "resume.pt" if folder is not None else None,
            fingerprint=_fingerprint(pair, method, recipe, seed, hashes, fabric),
            title=f"{method_name(method)} (seed {seed})",
            on_epoch=on_epoch,
        )
    return _finished(result, pair, method, recipe, seed, hashes, inputs.format, started)


@checked
@as_ever()
def train_classifier(
    model: nn.Module,
    train: ImageSet,
    validation: ImageSet,
    preprocessing: Preprocessing,
    recipe: Recipe | str | None = None,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    folder: Path | str | None = None,
    fabric: Fabric | None = None,
    on_epoch: OnEpoch | None = None,
    **recipe_fields: object,
) -> DistillRun:
    """Train a copy of `model` on labels alone: how teachers are made.

    model          gives logits (N, K) for the K classes of the images; its weights are the initialisation
    train          images with labels; validation: others of the same classes, which choose the epoch that is kept
    preprocessing  pixels -> input of the model

    Other arguments, and what holds for them, are as in `distill`. The result's `pair` is the model with itself.

    Raises ModelError for a model that does not give K logits of these images or cannot be trained, DataError where
    the images to validate on have other classes.
    """
    recipe, seed = _recipe(recipe, recipe_fields), check_seed(seed)
    if validation.classes != train.classes:
        raise DataError(
            f"the images to train on have the classes {list(train.classes)}, those to validate on "
            f"{list(validation.classes)}: give images of the same classes, in the same order"
        )
    _, _, height, width = preprocessing(train.images[:1]).shape
    check_classifier(model, len(train.classes), preprocessing.channels, (height, width))
    started = time.perf_counter()
    fabric = _fabric(recipe, device, fabric)
    with own_generators(fabric.device), silent_unless(fabric.is_global_zero):
        method = StudentOnly()
        student = _copy_to(model, fabric.device)
        sample = preprocessing(train.images[:2].to(fabric.device))
        work = ModelPair(student, student, (), preprocessing, train.classes)
        criterion = method.build(Setting(work, sample, dict, train.labels, recipe.batch_size, recipe.epochs, seed))
        inputs = StudentInput(train, preprocessing, recipe, seed, fabric.device, memory_format(student))
        hashes = {"model": state_hash(model), "train": train.content_hash(), "validation": validation.content_hash()}
        result = fit(
            student,
            criterion,
            inputs,
            validation,
            None,
            fabric=fabric,
            seed=seed,
            resume=Path(folder) / "resume.pt" if folder is not None else None,
            fingerprint=_fingerprint(work, method, recipe, seed, hashes, fabric),
            on_epoch=on_epoch,
        )
    pair = ModelPair(model, model, (), preprocessing, train.classes)
    run = _finished(result, pair, method, recipe, seed, hashes, inputs.format, started)
    return dataclasses.replace(run, pair=dataclasses.replace(run.pair, teacher=run.student))


def _recipe(recipe: Recipe | str | None, fields: dict[str, object]) -> Recipe:
    if isinstance(recipe, str):
        recipe = parse_recipe(recipe)
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in known:
            raise unknown_name("option of a training", name, known)
    return dataclasses.replace(recipe or Recipe(), **fields)  # type: ignore[arg-type]


def _fabric(recipe: Recipe, device: torch.device | str | None, fabric: Fabric | None) -> Fabric:
    if fabric is not None and device is not None:
        raise ConfigError("a fabric brings its own device: give device or fabric, not both")
    return fabric or fabric_on(recipe, device)


def _finished(
    result: Fit,
    pair: ModelPair,
    method: Method,
    recipe: Recipe,
    seed: int,
    hashes: dict[str, str],
    form: MemoryFormat,
    started: float,
) -> DistillRun:
    home = next(pair.student.parameters()).device
    student = result.student.to(home).to(memory_format=torch.contiguous_format)
    return DistillRun(
        student=student,
        pair=pair.with_student(student),
        method=method,
        recipe=recipe,
        seed=seed,
        history=result.history,
        best_epoch=result.best_epoch,
        seconds=time.perf_counter() - started,
        hashes=hashes,
        format=form,
        influence=result.influence,
    )


def _copy_to(model: nn.Module, device: torch.device) -> nn.Module:
    work = private_copy(model).to(device)
    return memory_format(work)(work)


def _fingerprint(
    pair: ModelPair, method: Method, recipe: Recipe, seed: int, hashes: dict[str, str], fabric: Fabric
) -> str:
    """A hash of all that the trained student depends on, but the machine and the versions of libraries."""
    job = {"method": repr(method), "recipe": dataclasses.asdict(recipe), "seed": seed, "hashes": hashes}
    job |= {"layers": list(map(str, pair.layers)), "preprocessing": repr(pair.preprocessing)}
    job |= {"models": [re.sub(r" at 0x[0-9a-f]+", "", str(model)) for model in (pair.teacher, pair.student)]}
    job |= {"precision": fabric.strategy.precision.precision, "devices": fabric.world_size}
    return hashlib.sha256(_text(job).encode()).hexdigest()


def _text(parts: dict[str, Any]) -> str:
    return json.dumps(parts, sort_keys=True)

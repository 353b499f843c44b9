"""Distil one student from its pair's teacher, or train a teacher: the two jobs around the training loop."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

from xaibench.allocator import kept_memory
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Setting
from xaibench.distillation.methods import Method, StudentOnly, method_name
from xaibench.distillation.recipe import Recipe, resolve_precision
from xaibench.distillation.teacher_cache import CachedTeacher, LiveTeacher, teacher_source
from xaibench.distillation.trainer import Fit, StudentInput, fit
from xaibench.errors import ConfigError, ModelError
from xaibench.models.folding import folded
from xaibench.models.memory_format import MemoryFormat, memory_format
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.progress import progress
from xaibench.subspace.moments import LayerMoments, collect_moments

__all__ = ["DistillRun", "distill", "make_fabric", "measure_moments", "train_classifier"]


@dataclass(frozen=True, eq=False)
class DistillRun:
    """A finished distillation and everything that says how it came about.

    student     the best student by validation accuracy, in evaluation mode, on the CPU
    history     one row an epoch: loss, its terms, validation accuracy and agreement, seconds
    best_epoch  the epoch that `student` is from, counted from 0
    seconds     wall-clock time of this call: subspace, teacher outputs and training
    format      the memory format in which the student was trained, and why
    influence   one row a training image (image, label, weight, influence), for `InfluenceWeighted`; else None
    """

    student: nn.Module
    method: Method
    recipe: Recipe
    seed: int
    history: pd.DataFrame
    best_epoch: int
    seconds: float
    hashes: dict[str, str]
    format: MemoryFormat
    influence: pd.DataFrame | None = None

    @property
    def validation_accuracy(self) -> float:
        return float(self.history["validation_accuracy"].max())

    def __repr__(self) -> str:
        return (
            f"DistillRun({method_name(self.method)}, seed={self.seed}, validation accuracy="
            f"{self.validation_accuracy:.3f} in epoch {self.best_epoch} of {len(self.history)})"
        )


ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def make_fabric(recipe: Recipe, accelerator: str = "auto", devices: int | str = 1, *, launch: bool = True) -> Fabric:
    """A Fabric for this recipe's precision. `devices` > 1 trains data-parallel, in processes that `launch` starts.

    Raises ConfigError for an accelerator, or a number of devices, that this machine does not have.
    """
    try:
        if accelerator not in ACCELERATORS:
            raise ValueError("not known")
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=resolve_precision(recipe.precision))  # type: ignore[arg-type]
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(
            f"cannot train on {devices} device(s) of accelerator '{accelerator}' ({reason}): "
            "choose cpu, cuda, mps or auto, and a number of devices that this machine has"
        ) from error
    if launch:
        fabric.launch()
    return fabric


@kept_memory()
def measure_moments(
    pair: ModelPair,
    images: ImageSet,
    fabric: Fabric | None = None,
    *,
    layers: tuple[str, ...] | None = None,
    locations: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, LayerMoments]:
    """The moments of the pair's teacher layers on unaugmented images: one pass, all layers."""
    layers = layers or tuple(dict.fromkeys(pair.teacher_layers))
    device = next(pair.teacher.parameters()).device
    chunks = images.images.split(batch_size)
    teacher = folded(pair.teacher, pair.preprocessing(chunks[0][:2].to(device)), layers)
    form = memory_format(teacher)
    teacher = form(teacher)
    with progress("subspace moments", len(chunks)) as advance:

        def batches():  # type: ignore[no-untyped-def]
            for chunk in chunks:
                yield form(pair.preprocessing(chunk.to(device)))
                advance()

        autocast = fabric.autocast() if fabric is not None else None
        return collect_moments(teacher, layers, batches(), locations=locations, seed=seed, autocast=autocast)


@kept_memory()
def distill(
    pair: ModelPair,
    task: Task,
    method: Method,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    measure: Callable[[], Mapping[str, LayerMoments]] | None = None,
    folder: Path | str | None = None,
    fabric: Fabric | None = None,
) -> DistillRun:
    """Train a copy of the pair's student by `method` on the task's training images.

    seed     order of the data, augmentation and the method's learned parts; the student's own initialisation is
             whatever the pair holds
    measure  gives the teacher's moments where a method needs them; None measures them here (`measure_moments`)
    folder   keeps the state after each epoch in `resume.pt`, so that a killed job goes on where it was
    fabric   None makes one for the recipe on the best device there is

    The pair is left as it was. Raises ModelError where its classes are not the task's.
    """
    recipe = recipe or Recipe()
    if pair.classes != task.subtask.classes:
        raise ModelError(
            f"the pair decides between {list(pair.classes)} but the task between {list(task.subtask.classes)}: "
            "build the pair with the task's classes"
        )
    started = time.perf_counter()
    fabric = fabric or make_fabric(recipe)
    hashes = pair.hashes() | {
        "train": task.train.content_hash(),
        "validation": task.validation.content_hash(),
    }
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
    source: CachedTeacher | LiveTeacher | None = None
    if criterion.needs_teacher:
        quick = folded(teacher, sample, criterion.teacher_layers)
        form = memory_format(quick)
        live = LiveTeacher(form(quick), criterion, fabric.autocast, form)
        budget = int(recipe.cache_gb * 1e9)
        source = teacher_source(live, inputs, len(train), recipe.cached_views, budget=budget)
    with fabric.autocast():
        asked = teacher if prepared.teacher is pair.teacher else _copy_to(pair.teacher, device)
        teacher_validation = predict_logits(asked, task.validation, pair.preprocessing)
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
        fingerprint=_fingerprint(pair, method, recipe, seed, hashes),
        title=f"{method_name(method)} (seed {seed})",
    )
    return _finished(result, method, recipe, seed, hashes, inputs.format, started)


@kept_memory()
def train_classifier(
    model: nn.Module,
    train: ImageSet,
    validation: ImageSet,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    fabric: Fabric | None = None,
) -> DistillRun:
    """Train a copy of `model` on labels alone: how teachers are made. Arguments as in `distill`."""
    started = time.perf_counter()
    fabric = fabric or make_fabric(recipe)
    student = _copy_to(model, fabric.device)
    method = StudentOnly()
    pair = ModelPair(student, student, (), preprocessing, train.classes)
    sample = preprocessing(train.images[:2].to(fabric.device))
    criterion = method.build(Setting(pair, sample, dict, train.labels, recipe.batch_size, recipe.epochs, seed))
    inputs = StudentInput(train, preprocessing, recipe, seed, fabric.device, memory_format(student))
    hashes = {"train": train.content_hash(), "validation": validation.content_hash()}
    resume = Path(folder) / "resume.pt" if folder is not None else None
    fingerprint = _fingerprint(pair, method, recipe, seed, hashes)
    result = fit(
        student,
        criterion,
        inputs,
        validation,
        None,
        fabric=fabric,
        seed=seed,
        resume=resume,
        fingerprint=fingerprint,
    )
    return _finished(result, method, recipe, seed, hashes, inputs.format, started)


def _finished(
    result: Fit,
    method: Method,
    recipe: Recipe,
    seed: int,
    hashes: dict[str, str],
    form: MemoryFormat,
    started: float,
) -> DistillRun:
    student = result.student.to("cpu").to(memory_format=torch.contiguous_format)
    seconds = time.perf_counter() - started
    return DistillRun(
        student, method, recipe, seed, result.history, result.best_epoch, seconds, hashes, form, result.influence
    )


def _copy_to(model: nn.Module, device: torch.device) -> nn.Module:
    work = copy.deepcopy(model).to(device)
    return memory_format(work)(work)


def _fingerprint(pair: ModelPair, method: Method, recipe: Recipe, seed: int, hashes: dict[str, str]) -> str:
    job = {"method": repr(method), "recipe": dataclasses.asdict(recipe), "seed": seed, "hashes": hashes}
    job |= {"layers": list(map(str, pair.layers)), "preprocessing": repr(pair.preprocessing)}
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()

"""The training loop, on lightning-fabric: any method, CPU or GPUs, mixed precision; interrupted runs resume exactly."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from xaibench.data.augment import augment
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.images import batches as batches_of
from xaibench.distillation.criterion import Batch, Criterion, TrainingState
from xaibench.distillation.devices import seed_generators
from xaibench.distillation.events import Cancelled, EpochState, OnEpoch
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.teacher_cache import CachedTeacher, LiveTeacher
from xaibench.errors import CheckpointError, DataError, RunFolderError
from xaibench.files import write_atomically
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.memory_format import MemoryFormat
from xaibench.models.predict import predict_logits
from xaibench.progress import progress

__all__ = ["Fit", "StudentInput", "check_enough_images", "fit"]

_log = logging.getLogger(__name__)

TeacherSource = Callable[[Tensor, Tensor, int], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class StudentInput:
    """Image indices and a view number -> model input. Pixels are a function of (seed, view, index) alone.

    format  the memory format that the student is trained in
    """

    images: ImageSet
    preprocessing: Preprocessing
    recipe: Recipe
    seed: int
    device: torch.device
    format: MemoryFormat

    @property
    def description(self) -> dict[str, Any]:
        """What all views of the images depend on beside the images and their preprocessing."""
        recipe = self.recipe
        return {"augment": recipe.augment, "padding": recipe.padding, "views": recipe.cached_views, "seed": self.seed}

    def __call__(self, indices: Tensor, view: int) -> Tensor:
        pixels = self.images.images[indices]
        if self.recipe.augment != "none":
            flip = self.recipe.augment == "crop-flip"
            pixels = augment(pixels, indices, seed=self.seed, epoch=view, padding=self.recipe.padding, flip=flip)
        return self.format(self.preprocessing(pixels.to(self.device)))


@dataclass(frozen=True, eq=False)
class Fit:
    """What training leaves: the best student by validation accuracy, its epoch, the history, a row an epoch.

    criterion  as it was with the best student
    influence  one row a training image, with its last influence and weight; None where all images counted alike
    """

    student: nn.Module
    criterion: Criterion
    history: pd.DataFrame
    best_epoch: int
    influence: pd.DataFrame | None


class _Step(nn.Module):
    """Student and criterion behind one forward, so that precision and gradient synchronisation wrap both.

    The teacher's summary is fetched inside it: as an argument, Fabric would copy it into float32.
    """

    def __init__(self, student: nn.Module, criterion: Criterion, teacher: TeacherSource | None) -> None:
        super().__init__()
        self.student = student
        self.criterion = criterion
        self.teacher = teacher

    def forward(self, x: Tensor, indices: Tensor, labels: Tensor, epoch: int, view: int) -> Any:
        summary = self.teacher(x, indices, view) if self.teacher is not None else {}
        outputs = self.criterion.observe(forward_with_layers(self.student, x, self.criterion.student_layers))
        loss, terms = self.criterion(outputs, summary, Batch(indices, labels, epoch))
        return (
            loss.mean(),
            {name: value.detach().float().mean() for name, value in terms.items()},
            outputs.logits,
        )


def fit(
    student: nn.Module,
    criterion: Criterion,
    train: StudentInput,
    validation: ImageSet,
    teacher: CachedTeacher | LiveTeacher | None,
    *,
    fabric: Fabric,
    seed: int,
    teacher_validation: Tensor | None = None,
    resume: Path | None = None,
    fingerprint: str = "",
    title: str = "training",
    on_epoch: OnEpoch | None = None,
) -> Fit:
    """Train `student` in place with `criterion`, keep the epoch with the best validation accuracy (the first on a tie).

    teacher             None where the criterion needs none
    teacher_validation  the teacher's validation logits (N, K), for the agreement column
    resume              file for the state after each epoch; where it exists, training goes on from it
    fingerprint         identifies the job: a resume file with another one is refused
    on_epoch            called after each epoch by the first process, when the resume file is written

    Raises DataError when the loss becomes NaN or infinite, RunFolderError for a resume file of another job, `Cancelled`
    where `on_epoch` cancelled. Seeds torch's global generators at each epoch: keep them with `own_generators`.
    """
    recipe, device = train.recipe, fabric.device
    check_enough_images(len(train.images), recipe)
    step = _Step(train.format(student.to(device)), criterion.to(device), teacher)
    optimizer = torch.optim.AdamW(step.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    module, optimizer = fabric.setup(step, optimizer)
    rows: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": -1, "accuracy": -1.0, "student": {}, "criterion": {}}
    first, begun = 0, time.perf_counter()
    if resume is not None and resume.exists():
        state = _read_resume(resume, fingerprint)
        step.student.load_state_dict(state["student"])
        step.criterion.load_state_dict(state["criterion"])
        optimizer.load_state_dict(state["optimizer"])
        fabric.strategy.precision.load_state_dict(state["precision"])
        rows, best, first = state["rows"], state["best"], state["epoch"] + 1
    with progress(title, recipe.epochs) as advance:
        advance(first)
        for epoch in range(first, recipe.epochs):
            started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, epoch)
            row = {"epoch": epoch, "lr": _learning_rate(recipe, epoch)}
            seed_generators((((seed << 20) + epoch) << 10) + fabric.global_rank, device)
            step.criterion.start_epoch(epoch, _state(step, train, validation, recipe.view(epoch)))
            row |= _train_epoch(module, optimizer, train, fabric, seed, epoch)
            measured = _validate(step.student, validation, train.preprocessing, teacher_validation, fabric)
            row |= fabric.broadcast(measured)  # every process keeps the same epoch
            row["seconds"] = time.perf_counter() - started
            rows.append(row)
            if row["validation_accuracy"] > best["accuracy"]:
                best = {"epoch": epoch, "accuracy": row["validation_accuracy"]}
                best |= {"student": _copy_state(step.student), "criterion": _copy_state(step.criterion)}
            if resume is not None and fabric.is_global_zero:
                state = {"fingerprint": fingerprint, "epoch": epoch, "rows": rows, "best": best}
                state |= {"student": step.student.state_dict(), "criterion": step.criterion.state_dict()}
                state |= {"optimizer": optimizer.state_dict(), "precision": fabric.strategy.precision.state_dict()}
                write_atomically(resume, partial(_save, state))
            if on_epoch is not None:
                seconds = time.perf_counter() - begun
                history = [dict(r) for r in rows]
                copies = partial(_snapshot, step.student), partial(_snapshot, step.criterion)
                told = EpochState(epoch, recipe.epochs, history[-1], history, seconds, *copies)
                _tell(on_epoch, told, fabric)
            advance(1, note=f"loss {row['loss']:.3f}  val {row['validation_accuracy']:.3f}")
            _log.info("%s epoch %d: %s", title, epoch, {k: round(v, 4) for k, v in row.items()})
    influence = _influence(step.criterion, train.images)
    step.student.load_state_dict(best["student"])
    step.criterion.load_state_dict(best["criterion"])
    return Fit(step.student.eval(), step.criterion.eval(), pd.DataFrame(rows), best["epoch"], influence)


def check_enough_images(n: int, recipe: Recipe) -> None:
    """Raise DataError where n training images do not make a single batch."""
    if n < recipe.smallest_batch:
        smaller = ", a smaller batch_size or drop_last = false" if recipe.drop_last else ""
        raise DataError(
            f"{n} training images do not fill a batch of {recipe.smallest_batch}: use a larger fraction{smaller}"
        )


def _tell(on_epoch: OnEpoch, state: EpochState, fabric: Fabric) -> None:
    if fabric.is_global_zero:
        try:
            on_epoch(state)
        except Cancelled:
            state.cancel()
    if fabric.broadcast(state.cancelled):
        raise Cancelled(f"training was cancelled after {state.epoch + 1} of {state.epochs} epochs")


def _snapshot(module: nn.Module) -> nn.Module:
    return private_copy(module).cpu().to(memory_format=torch.contiguous_format).eval()


def _state(step: _Step, train: StudentInput, validation: ImageSet, view: int) -> TrainingState:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in batches_of(torch.arange(len(validation)), 64):
            x = train.preprocessing(validation.images[rows].to(train.device))
            yield train.format(x), validation.labels[rows].to(train.device)

    teacher = step.teacher or (lambda x, indices, view: {})
    return TrainingState(step.student, train, teacher, train.images.labels, view, batches)


def _influence(criterion: Criterion, images: ImageSet) -> pd.DataFrame | None:
    weights = criterion.image_weights()
    if weights is None:
        return None
    labels = [images.classes[i] for i in images.labels.tolist()]
    columns = {name: values.cpu().numpy() for name, values in weights.items()}
    return pd.DataFrame({"image": images.keys, "label": labels} | columns)


def _train_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: StudentInput,
    fabric: Fabric,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    n, recipe = len(train.images), train.recipe
    order = torch.randperm(n, generator=torch.Generator().manual_seed((seed << 20) + epoch))
    module.train()
    sums: dict[str, Tensor] = {}
    seen = 0
    for batch in order.split(recipe.batch_size):
        indices = batch[fabric.global_rank :: fabric.world_size]
        if len(batch) < max(recipe.smallest_batch, 2 * fabric.world_size):
            continue
        view = recipe.view(epoch)
        x = train(indices, view)
        labels = train.images.labels[indices].to(fabric.device)
        loss, terms, _ = module(x, indices, labels, epoch, view)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        optimizer.step()
        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, torch.zeros((), device=fabric.device)) + value * len(indices)
        seen += len(indices)
    means = {name: float(fabric.all_reduce(value / seen, reduce_op="mean")) for name, value in sums.items()}  # type: ignore[arg-type]
    if not all(v == v and abs(v) != float("inf") for v in means.values()):
        raise DataError(
            f"the training loss is not finite in epoch {epoch} ({means}): lower the learning rate or the layer weight"
        )
    return means


def _validate(
    student: nn.Module, images: ImageSet, preprocessing: Preprocessing, teacher: Tensor | None, fabric: Fabric
) -> dict[str, float]:
    with fabric.autocast():
        logits = predict_logits(student, images, preprocessing)
    labels = images.labels
    row = {
        "validation_accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "validation_ce": torch.nn.functional.cross_entropy(logits, labels).item(),
    }
    if teacher is not None:
        row["validation_agreement"] = (logits.argmax(1) == teacher.argmax(1)).double().mean().item()
    return row


def _learning_rate(recipe: Recipe, epoch: int) -> float:
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * epoch / recipe.epochs))))
    return recipe.lr * recipe.gamma ** (epoch // recipe.step_size)


def _copy_state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _save(state: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()  # written by Python, a full disk is an OSError
    torch.save(state, buffer)
    path.write_bytes(buffer.getbuffer())


def _read_resume(path: Path, fingerprint: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"cannot read {path} ({type(error).__name__}): delete it to train from the start"
        ) from error
    if state.get("fingerprint") != fingerprint:
        raise RunFolderError(
            f"{path} belongs to another configuration, data or teacher: choose another run folder or delete it"
        )
    return state

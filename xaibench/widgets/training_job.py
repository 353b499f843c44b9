"""One training as a panel runs it: what is trained, what is told after an epoch, and where its state is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.result import Attribution
from xaibench.attribution.targets import make_target
from xaibench.data.images import ImageSet
from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill
from xaibench.distillation.events import Cancelled, EpochState
from xaibench.distillation.methods import Method, method_name
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ExplanationError, RunFolderError
from xaibench.files import write_text
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.similarity.compare import compare, explain_null
from xaibench.widgets.worker import Turn

__all__ = ["Likeness", "TrainingJob", "Watched", "teacher_accuracy"]

_SCORES = "lrp.json"


class Likeness:
    """How alike LRP's maps of a student are to the teacher's, on the same images each time.

    The teacher is explained once; if it cannot be, nothing is.

    error  why the last student was not explained, "" if it was
    """

    def __init__(self, pair: ModelPair, images: ImageSet) -> None:
        self.pair, self.images, self.error = pair, images, ""
        self._teacher: Attribution | None = None

    def __call__(self, student: nn.Module) -> dict[str, float]:
        """Cosine (mean over the images, its 95% interval) and chance: that with the student's maps of other images."""
        if self.error and self._teacher is None:
            return {}
        self.error = ""
        try:
            if self._teacher is None:
                logits = predict_logits(self.pair.teacher, self.images, self.pair.preprocessing)
                x, target = self.pair.preprocessing(self.images.images), make_target(logits, self.images.labels)
                self._teacher = explain_model(self.pair.teacher, x, target, "lrp", self.pair.preprocessing)
            maps = explain_null(self.pair, student, self.images, self._teacher)
        except ExplanationError as error:
            self.error = str(error)
            return {}
        report = compare(self._teacher, maps, metrics="cosine")
        score = report.score("cosine")
        chance = report.score("cosine", "mismatched images").mean if len(self.images) > 1 else 0.0
        return {
            "lrp_cosine": score.mean,
            "lrp_cosine_low": score.low,
            "lrp_cosine_high": score.high,
            "lrp_chance": chance,
        }


@dataclass(frozen=True, eq=False)
class Watched:
    """A training after an epoch, as it is shown.

    rows     one a epoch so far: the trainer's, and where LRP was compared `lrp_cosine` with its interval, `lrp_chance`
    epochs   of the whole training
    elapsed  seconds of this call, from its first epoch
    left     seconds to go, if epochs go on to take as long as those of this call
    """

    rows: list[dict[str, float]]
    epochs: int
    elapsed: float
    left: float


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """A student of the pair, and how it is trained.

    data  stands for the models' weights and the images in `folder_name`
    """

    pair: ModelPair
    task: Task
    method: Method
    recipe: Recipe
    seed: int
    data: str

    @property
    def name(self) -> str:
        """ "method/seedN", as in a run."""
        return f"{method_name(self.method)}/seed{self.seed}"

    @cached_property
    def folder_name(self) -> str:
        """A name of a folder that no other job has."""
        parts = [repr(self.method), dataclasses.asdict(self.recipe), self.seed, list(map(str, self.pair.layers))]
        digest = hashlib.sha256(json.dumps([*parts, self.data]).encode()).hexdigest()[:10]
        return f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower())[:60].strip('-')}-{digest}"

    def started(self, folder: Path) -> bool:
        """Whether an earlier training has left its state."""
        return (folder / "resume.pt").exists()

    def forget(self, folder: Path) -> None:
        """Delete what an earlier training has left. Raises RunFolderError where that cannot be."""
        try:
            for name in ("resume.pt", _SCORES):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot write to {folder} ({error.strerror}): choose another folder") from error

    def train(
        self,
        turn: Turn,
        folder: Path,
        likeness: Likeness,
        every: int,
        ending: threading.Event,
        tell: Callable[[Watched], Any],
        device: torch.device | str | None = None,
    ) -> DistillRun | None:
        """Train, or go on where `folder` says; None where `ending` was set, after the epoch in which it was.

        tell   called with each epoch, by `turn.show`
        every  epochs from one look at LRP to the next, beginning with the first, and the last; 0: never
        """
        scores = _read(folder / _SCORES)
        first: list[int] = []

        def on_epoch(state: EpochState) -> None:
            first.append(state.epoch)
            last = state.epoch + 1 == state.epochs
            if every and (state.epoch % every == 0 or last) and (score := likeness(state.student())):
                scores[state.epoch] = score
                write_text(folder / _SCORES, json.dumps(scores))
            rows = _joined(state.rows, scores)
            left = state.seconds / (state.epoch - first[0] + 1) * (state.epochs - state.epoch - 1)
            turn.show(lambda: tell(Watched(rows, state.epochs, state.seconds, left)))
            turn.report((state.epoch + 1) / state.epochs, f"epoch {state.epoch + 1} of {state.epochs}")
            if ending.is_set() and not last:
                state.cancel()

        turn.report(0.0, "preparing")
        try:
            run = distill(
                self.pair,
                self.task,
                self.method,
                self.recipe,
                seed=self.seed,
                device=device,
                folder=folder,
                on_epoch=on_epoch,
            )
        except Cancelled:
            return None
        return dataclasses.replace(run, history=pd.DataFrame(_joined(run.history.to_dict("records"), scores)))


def teacher_accuracy(pair: ModelPair, task: Task) -> float:
    """Accuracy of the teacher on the validation images: what students are to reach."""
    logits = predict_logits(pair.teacher, task.validation, pair.preprocessing)
    return float((logits.argmax(1) == task.validation.labels).double().mean())


def _joined(rows: Any, scores: Mapping[int, Mapping[str, float]]) -> list[dict[str, float]]:
    return [dict(row) | dict(scores.get(int(row["epoch"]), {})) for row in rows]


def _read(path: Path) -> dict[int, dict[str, float]]:
    try:
        return {int(epoch): dict(score) for epoch, score in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # it can be measured again
        return {}

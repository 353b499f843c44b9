"""A panel that distils students: choose how, watch the curves, cancel, go on, compare."""

from __future__ import annotations

import dataclasses
import html
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch
import traitlets

from xaibench.data.images import ImageSet
from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun
from xaibench.distillation.methods import METHODS, method_name, parse_method
from xaibench.distillation.recipe import parse_recipe
from xaibench.errors import ConfigError, DataError, ModelError, XaibenchError
from xaibench.figures.names import method_label
from xaibench.models.layer_pairs import parse_layers
from xaibench.models.pair import ModelPair
from xaibench.models.predict import as_device
from xaibench.validation import checked
from xaibench.widgets.parts import button, line, style_sheet
from xaibench.widgets.training_curves import CURVES, clock, curves_html
from xaibench.widgets.training_job import Likeness, TrainingJob, Watched, teacher_accuracy
from xaibench.widgets.training_settings import Settings
from xaibench.widgets.training_traits import TrainingTraits
from xaibench.widgets.worker import Turn

__all__ = ["TrainingPanel"]

_SETTINGS = ("method", "epochs", "lr", "seed", "layers", "recipe")
_PAUSE = 1.0  # seconds between two redrawn pictures, at least


class TrainingPanel(TrainingTraits):
    """Distil the pair's student while the notebook stays free; curves after each epoch. A panel for Jupyter.

    pair      its teacher teaches copies of its student; neither is changed
    task      images to train and to validate on
    methods   texts that `parse_method` reads, to choose from; None: all of METHODS
    folder    keeps each training's state, from which it goes on, also after the notebook has ended; None: a folder
              that is deleted when the panel is closed
    explorer  gets each finished student, by `explorer.add_student(name, student)`
    every     epochs from one comparison of LRP's maps with the teacher's to the next; 0: none
    images    that LRP is compared on: an ImageSet, or how many of the validation images
    device    as in `distill`

    Traits are its interface; set them from code or with the controls:

    method, epochs, lr, seed  of the next training; method is a text ("subdistill:layer_weight=50")
    layers    its layer pairs ("layer1:layer1", ...)
    recipe    further fields of the Recipe as text ("batch_size=128,augment=none")
    state     "idle", "training", "cancelled" or "finished"; read-only, as are those below
    epoch     how many epochs of the training are done
    students  name ("method/seedN") -> finished student

    `history` is the DataFrame of the training on show, one row an epoch, and `runs` has the DistillRun of each student.
    `start`, `resume` and `cancel` are the buttons. What a trait refuses raises an error and changes nothing.
    """

    _at_work = False
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    @checked
    def __init__(
        self,
        pair: ModelPair,
        task: Task,
        methods: Sequence[str] | None = None,
        *,
        folder: Path | str | None = None,
        explorer: Any = None,
        every: int = 5,
        images: ImageSet | int = 16,
        device: torch.device | str | None = None,
        **traits: Any,
    ) -> None:
        if pair.classes != task.subtask.classes:
            raise ModelError(
                f"the pair decides between {list(pair.classes)} but the task between {list(task.subtask.classes)}: "
                "build the pair with the task's classes"
            )
        if every < 0:
            raise ConfigError(f"every must be at least 0, got {every}: 0 compares no LRP maps")
        if explorer is not None and not callable(getattr(explorer, "add_student", None)):
            raise ConfigError(f"{type(explorer).__name__} takes no students: give an explorer with add_student")
        looked_at = task.validation.sample(images) if isinstance(images, int) else images
        if looked_at.classes != pair.classes:
            raise DataError(f"the images have classes {list(looked_at.classes)}, the pair {list(pair.classes)}")
        self._pair, self._task, self._explorer, self._every = pair, task, explorer, every
        self._device, self._likeness = as_device(device), Likeness(pair, looked_at)
        self._scratch = tempfile.TemporaryDirectory(prefix="xaibench-") if folder is None else None
        self._folder = Path(self._scratch.name if self._scratch else str(folder))
        self._data = repr([pair.hashes(), task.train.content_hash(), task.validation.content_hash()])
        self._ending = threading.Event()
        self._teacher_accuracy: float | None = None
        self._job: TrainingJob | None = None
        self._jobs: dict[str, str] = {}
        self._next_drawing = 0.0
        self.history = pd.DataFrame()
        self.runs: dict[str, DistillRun] = {}
        texts = [method_name(parse_method(text)) for text in methods or METHODS]
        start = {"method": texts[0] if methods else "subdistill", "layers": tuple(map(str, pair.layers))}
        super().__init__(**{**start, **traits})
        self.add_class("xaibench-training")
        self._settings = Settings(self._choose, pair, task.train.shape[1:], texts)
        self._start = button("start", lambda: self._try(self.start), icon="play", tooltip="train from the beginning")
        self._resume = button("resume", lambda: self._try(self.resume), icon="forward")
        self._words, self._curves = widgets.HTML(), widgets.HTML()
        self.children = (
            style_sheet(CURVES),
            self._settings.box,
            line(self._start, self._resume, self._status),
            self._words,
            self._curves,
        )
        self.observe(self._follow, [*_SETTINGS, "state"])
        self._follow()

    def start(self) -> None:
        """Train from the beginning. Raises ConfigError while a training is under way."""
        job = self._new_job()
        job.forget(self._folder / job.folder_name)
        self._train(job)

    def resume(self) -> None:
        """Go on with the training of these settings that was cancelled or interrupted. ConfigError if there is none."""
        job = self._new_job()
        if not job.started(self._folder / job.folder_name):
            raise ConfigError(f"no training of {job.name} with these settings was begun in {self._folder}: start it")
        self._train(job)

    def cancel(self) -> None:
        """End the training after the epoch that is under way; `resume` goes on from there."""
        if self.state == "training":
            self._ending.set()
            self._stop.disabled = True
            self._say("ends after this epoch")

    def close(self) -> None:
        """Free the panel with all its parts; a training ends after its epoch."""
        super().close()
        if not self._at_work:  # else its thread does it
            self._clean()

    def _choose(self, trait: str, value: Any) -> None:
        """Set a trait as a control asks for; `value` may be a function of what it was."""
        if not self._following:
            self._try(lambda: setattr(self, trait, value(getattr(self, trait)) if callable(value) else value))
            self._follow()

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (XaibenchError, traitlets.TraitError) as error:
            self.error = str(error)

    def _follow(self, _change: Any = None) -> None:
        with self._controls_follow():
            self._settings.follow({name: getattr(self, name) for name in _SETTINGS})
        training = self.state == "training"
        begun = not training and (job := self._new_job()).started(self._folder / job.folder_name)
        self._start.disabled, self._resume.disabled = training, not begun
        self._resume.tooltip = "go on where this training was ended" if begun else "nothing to go on with"

    def _new_job(self) -> TrainingJob:
        self._must_be_open()
        if self.state == "training":
            raise ConfigError("a training is under way: cancel it and wait for the end of its epoch")
        pair = dataclasses.replace(self._pair, layers=parse_layers(self.layers))
        recipe = dataclasses.replace(parse_recipe(self.recipe), epochs=self.epochs, lr=self.lr)
        return TrainingJob(pair, self._task, parse_method(self.method), recipe, self.seed, self._data)

    def _train(self, job: TrainingJob) -> None:
        def work(turn: Turn) -> DistillRun | None:
            folder = self._folder / job.folder_name
            self._at_work = True
            try:
                if self._teacher_accuracy is None:
                    self._teacher_accuracy = teacher_accuracy(self._pair, self._task)
                return job.train(turn, folder, self._likeness, self._every, self._ending, self._watch, self._device)
            finally:
                self._at_work = False
                if turn.cancelled:  # the panel was closed
                    self._clean()

        self._ending.clear()
        self._stop.disabled, self.error, self.history = False, "", pd.DataFrame()
        self._job, self._curves.value, self._next_drawing = job, "", 0.0
        self.set_trait("epoch", 0)
        self.set_trait("state", "training")
        self._say("preparing: the teacher is asked first")
        self._work(work, lambda run: self._ended(job, run))

    def _watch(self, seen: Watched) -> None:
        """Show an epoch; pictures at most once a second, as small students learn faster than that."""
        self.history = pd.DataFrame(seen.rows)
        self._say(
            f"epoch {len(seen.rows)} of {seen.epochs}; {clock(seen.elapsed)} elapsed, about {clock(seen.left)} to go"
            + ("; ends now" if self._ending.is_set() else "")
        )
        if time.monotonic() > self._next_drawing:
            self._draw()
        self.set_trait("epoch", len(seen.rows))

    def _draw(self) -> None:
        if len(self.history):
            started = time.monotonic()
            self._curves.value = curves_html(self.history, self._teacher_accuracy, self._likeness.error)
            ended = time.monotonic()
            self._next_drawing = ended + max(_PAUSE, 9 * (ended - started))  # at most a tenth of the notebook's time

    def _ended(self, job: TrainingJob, run: DistillRun | None) -> None:
        if run is None:
            self._stopped(job, "cancelled", "cancelled")
            return
        self.history = run.history
        self._draw()
        self._say(
            f"finished: validation accuracy {run.validation_accuracy:.3f} in epoch {run.best_epoch + 1} of "
            f"{len(run.history)}, the student that is kept; {clock(run.seconds)} elapsed"
        )
        name = self._name_of(job)
        self.runs[name] = run
        self.set_trait("epoch", len(run.history))
        self.set_trait("students", {**self.students, name: run.student})
        self.set_trait("state", "finished")
        if self._explorer is not None:
            self._explorer.add_student(name, run.student)

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        if self._job is not None and self.state == "training":
            interrupted = isinstance(error, KeyboardInterrupt)
            how = ("cancelled", "interrupted") if interrupted else ("idle", "ended by an error")
            self._stopped(self._job, *how)

    def _stopped(self, job: TrainingJob, state: str, why: str) -> None:
        """A training has ended before its last epoch."""
        kept = "; resume goes on from there" if job.started(self._folder / job.folder_name) else ""
        self._say(f"{why} after {self.epoch} of {job.recipe.epochs} epochs{kept}")
        self.set_trait("state", state)
        self._draw()

    def _name_of(self, job: TrainingJob) -> str:
        """Its name; with a number where a student of other settings has it already."""
        numbered = (f"{job.name}{f' ({n})' if n > 1 else ''}" for n in itertools.count(1))
        name = next(name for name in numbered if self._jobs.get(name, job.folder_name) == job.folder_name)
        self._jobs[name] = job.folder_name
        return name

    def _say(self, text: str) -> None:
        name = html.escape(method_label(self._job.name)) if self._job is not None else ""
        self._words.value = f'<div class="xb-note"><b>{name}</b> {html.escape(text)}</div>'

    def _clean(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()

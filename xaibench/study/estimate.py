"""What a study will do and about how long it will take, from a few steps of each kind of work."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import pandas as pd
import torch

from xaibench.attribution.explain import explain_model, parse_explainer
from xaibench.attribution.targets import make_target
from xaibench.data.images import ImageSet
from xaibench.data.tasks import Task
from xaibench.distillation.devices import quiet
from xaibench.distillation.distill import distill, make_fabric, measure_moments
from xaibench.distillation.events import Cancelled, EpochState
from xaibench.models.predict import predict_logits
from xaibench.progress import progress, silent_unless
from xaibench.run.config import RunConfig
from xaibench.run.folder import Run
from xaibench.run.inputs import Assets, load_assets
from xaibench.similarity.patch_order import patch_side
from xaibench.study.folder import Study

__all__ = ["cells"]

_BATCHES = 5  # of a training that is timed
_IMAGES = 10  # that are explained
_PREDICTED = 200  # for which logits are computed
_LONG = 10.0  # seconds: a single step of so many is not repeated, and many short ones take no longer


def cells(study: Study, accelerator: str = "auto") -> pd.DataFrame:
    """One row a run: its place in the grid, its students, how many of them are there, and about how many minutes of one
    process the rest will take.

    The estimate is an upper bound as a rule: it has the teacher run in every step, which a cache of its outputs saves.
    What a method does between epochs (influence weights) is not counted.
    It measures the first of the runs that differ in nothing but the numbers of images, epochs and the like.
    """
    measured: dict[tuple[object, ...], _Times] = {}
    rows = []
    with progress("estimate", len(study.runs)) as advance:
        for condition in study.config.conditions:
            run, config = study.runs[condition.name], condition.config
            assets = load_assets(config)
            done = [name for name in run.jobs if run.is_distilled(name)]
            seconds = 0.0
            if not run.finished or run.failures:
                pair = _timed_alike(config)
                if pair not in measured:
                    tell = partial(_tell, advance, condition.name)
                    measured[pair] = _measure(config, assets, accelerator, tell)
                seconds = measured[pair].of(run, assets.task)
            rows.append(
                {"run": condition.name, **dict(condition.levels)}
                | {"images": len(assets.task.train), "students": len(run.jobs), "done": len(done)}
                | {"minutes": round(seconds / 60, 1)}
            )
            advance(note=condition.name)
    return pd.DataFrame(rows)


def _timed_alike(config: RunConfig) -> tuple[object, ...]:
    """What a step's time depends on."""
    train, data = config.train, config.data
    step = (train.batch_size, train.augment, train.precision)
    return config.teacher, config.student, data.dataset, data.size, config.methods, config.explain.explainers, step


@dataclasses.dataclass(frozen=True)
class _Times:
    """Seconds an image: a training step by method, a forward pass, all that is explained of it."""

    training: dict[str, float]
    forward: float
    explanation: float

    def of(self, run: Run, images: Task) -> float:
        """Seconds that one process needs for what the run lacks."""
        config = run.config
        missing = [job.key.method_name for name, job in run.jobs.items() if not run.is_distilled(name)]
        steps = sum(self.training[method] for method in missing) * len(images.train)
        checks = len(missing) * self.forward * len(images.validation)
        return config.train.epochs * (steps + checks) + len(run.models) * config.explain.images * self.explanation


def _tell(advance: Callable[..., None], run: str, what: str) -> None:
    advance(0, note=f"{run}: {what}")


def _measure(config: RunConfig, assets: Assets, accelerator: str, tell: Callable[[str], None]) -> _Times:
    fabric = make_fabric(config.train, accelerator)
    pair, task, batch = assets.student_pair(config.seeds[0]), assets.task, config.train.batch_size
    recipe = dataclasses.replace(config.train, views=0)
    some, many = (task.test.sample(count, config.data.seed) for count in (_IMAGES, _PREDICTED))
    measure = cache(partial(measure_moments, pair, some))

    def train(method: str, batches: int) -> None:
        small = Task(_rows(task, batches * batch), some, some, task.subtask, task.dataset)
        seed = config.seeds[0]
        with suppress(Cancelled):  # after one epoch of all that the method is checked for
            distill(pair, small, method, recipe, seed=seed, measure=measure, fabric=fabric, on_epoch=EpochState.cancel)

    def predict(count: int) -> None:
        predict_logits(pair.teacher, many.take(range(count)), pair.preprocessing, device=fabric.device)

    def explain(count: int) -> None:
        few = some.take(range(count))
        target = make_target(predict_logits(pair.teacher, few, pair.preprocessing), few.labels)
        x = pair.preprocessing(few.images)
        for explainer in config.explain.explainers:
            explain_model(pair.student, x, target, parse_explainer(explainer), pair.preprocessing, device=fabric.device)

    with silent_unless(False), quiet("xaibench", logging.ERROR):  # warnings of a few images say nothing here
        training = {}
        for method in config.methods:
            tell(method)
            training[method] = _a_step(partial(train, method), _BATCHES) / batch
        tell("predictions and explanations")
        forward, explanation = _a_step(predict, len(many)), _a_step(explain, len(some))
    flips = (patch_side(*some.shape[1:]) ** 2 + 1) * (len(config.explain.explainers) + 2)
    return _Times(training, forward, explanation + flips * forward)


def _a_step(work: Callable[[int], object], steps: int) -> float:
    """Seconds of one step of `work(steps)`, without what it does once; with it where a step takes long."""
    first = _seconds(work, 1)  # warms up
    if first > _LONG:
        return first
    two = _seconds(work, 2)
    many = max(3, min(steps, int(2 * _LONG / two)))
    return max(0.0, _seconds(work, many) - two) / (many - 2)


def _seconds(work: Callable[[int], object], steps: int) -> float:
    began = time.monotonic()
    work(steps)
    return time.monotonic() - began


def _rows(task: Task, count: int) -> ImageSet:
    """`count` training images; some more than once where there are too few."""
    images = task.train
    rows = torch.arange(count).remainder(len(images))
    keys = tuple(map(str, range(count)))
    return ImageSet(images.images[rows], images.labels[rows], images.classes, keys, images.source)

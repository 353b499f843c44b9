from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill, make_fabric
from xaibench.distillation.methods import Method
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.trainer import StudentInput
from xaibench.models.checkpoints import state_hash
from xaibench.models.pair import ModelPair


@pytest.fixture
def job(tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric) -> Callable[..., DistillRun]:
    """job(method, seed=0, folder=None, **changes to the recipe) -> the finished run."""

    def run(method: Method, *, seed: int = 0, folder: Path | None = None, **changes: object) -> DistillRun:
        recipe = dataclasses.replace(tiny_recipe, **changes)  # type: ignore[arg-type]
        fabric = tiny_fabric if recipe.precision == "32-true" else make_fabric(recipe, "cpu")
        return distill(tiny_pair, tiny_task, method, recipe, seed=seed, folder=folder, fabric=fabric)

    return run


@pytest.fixture
def assert_same() -> Callable[[DistillRun, DistillRun], None]:
    """Two runs with the same history, but for the seconds, and the same student to the last bit."""

    def check(one: DistillRun, other: DistillRun) -> None:
        histories = [run.history.drop(columns="seconds") for run in (one, other)]
        pd.testing.assert_frame_equal(*histories, check_exact=True)
        assert state_hash(one.student) == state_hash(other.student)
        assert one.best_epoch == other.best_epoch

    return check


@pytest.fixture
def interrupted_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """interrupted_after(n): a block in which Ctrl-C comes when the batch after the n-th is prepared."""
    original = StudentInput.__call__

    @contextmanager
    def interrupt(batches: int) -> Iterator[None]:
        left = [batches]

        def call(self: StudentInput, indices: torch.Tensor, view: int) -> torch.Tensor:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return original(self, indices, view)

        monkeypatch.setattr(StudentInput, "__call__", call)
        try:
            yield
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail("the run ended before it was interrupted")
        finally:
            monkeypatch.undo()

    return interrupt

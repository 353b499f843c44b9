from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill, train_classifier
from xaibench.distillation.methods import KD, Method, StudentOnly, SubDistill
from xaibench.distillation.recipe import Recipe
from xaibench.errors import CheckpointError, RunFolderError
from xaibench.models.checkpoints import state_hash
from xaibench.models.layer_pairs import parse_layers
from xaibench.models.pair import ModelPair

Job = Callable[..., DistillRun]
Same = Callable[[DistillRun, DistillRun], None]
Interrupt = Callable[[int], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (SubDistill(), {}),
        (SubDistill(centring="zscore"), {"views": 2}),
        (KD(), {"augment": "none", "schedule": "cosine"}),
        (StudentOnly(), {"step_size": 1}),
        (SubDistill(), {"precision": "bf16-mixed", "views": 2}),
    ],
    ids=str,
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    job: Job,
    method: Method,
    changes: dict[str, object],
    tmp_path: Path,
    assert_same: Same,
    interrupted_after: Interrupt,
) -> None:
    whole = job(method, **changes)
    asked = 0
    if method != StudentOnly() and ("views" in changes or "augment" in changes):
        asked = 1 + int(changes.get("views", 1))  # type: ignore[call-overload]  # filling the cache
    with interrupted_after(asked + 5):  # the second epoch's third batch never comes
        job(method, folder=tmp_path, **changes)
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["epoch"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]
    assert_same(job(method, folder=tmp_path, **changes), whole)
    assert_same(job(method, folder=tmp_path, **changes), whole)  # a finished one is not trained again


def test_a_resumed_run_does_not_repeat_what_was_done(job: Job, tmp_path: Path, interrupted_after: Interrupt) -> None:
    with interrupted_after(7):
        job(StudentOnly(), folder=tmp_path)
    with interrupted_after(2):  # one epoch of three batches is left
        job(StudentOnly(), folder=tmp_path)
    job(StudentOnly(), folder=tmp_path)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"lr": 2e-3}, {"epochs": 4}])
def test_the_state_of_another_job_is_refused(job: Job, changes: dict[str, object], tmp_path: Path) -> None:
    job(KD(), folder=tmp_path)
    with pytest.raises(RunFolderError, match=r"resume\.pt belongs to another configuration, data or teacher"):
        job(KD(), folder=tmp_path, **changes)
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        job(KD(alpha=0.5), folder=tmp_path)


def test_the_state_for_other_layers_is_refused(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric, tmp_path: Path
) -> None:
    def run(*layers: str) -> None:
        pair = dataclasses.replace(tiny_pair, layers=parse_layers(layers))
        distill(pair, tiny_task, SubDistill(), tiny_recipe, folder=tmp_path, fabric=tiny_fabric)

    run("layer3", "layer4")
    with pytest.raises(RunFolderError, match="belongs to another configuration"):
        run("layer4:layer3", "layer3:layer4")


def test_a_damaged_state_is_refused(job: Job, tmp_path: Path) -> None:
    job(StudentOnly(), folder=tmp_path)
    path = tmp_path / "resume.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"cannot read .*resume\.pt .*: delete it to train from the start"):
        job(StudentOnly(), folder=tmp_path)


def test_a_teacher_is_trained_on_labels_and_resumes(
    tiny_pair: ModelPair,
    tiny_task: Task,
    tiny_recipe: Recipe,
    tiny_fabric: Fabric,
    tmp_path: Path,
    assert_same: Same,
    interrupted_after: Interrupt,
) -> None:
    def train(folder: Path | None = None) -> DistillRun:
        arguments = (tiny_pair.student, tiny_task.train, tiny_task.validation, tiny_pair.preprocessing, tiny_recipe)
        return train_classifier(*arguments, folder=folder, fabric=tiny_fabric)

    before, whole = state_hash(tiny_pair.student), train()
    with interrupted_after(4):
        train(tmp_path)
    assert_same(train(tmp_path), whole)
    assert state_hash(tiny_pair.student) == before
    assert "validation_agreement" not in whole.history

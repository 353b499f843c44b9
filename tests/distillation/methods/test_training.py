"""Each method through `distill`: it trains, by seed, with a cached teacher as with a live one, and resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric

from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill
from xaibench.distillation.methods import METHODS, parse_method
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.trainer import StudentInput
from xaibench.models.checkpoints import state_hash
from xaibench.models.pair import ModelPair

Interrupt = Callable[[int], AbstractContextManager[None]]
TEXTS = [
    *(name for name in METHODS if name not in ("influence", "random-control", "untrained-teacher")),
    *("icd:base=sd-dkd", "icd:base=sd-nkd,scales=1+4", "icd:base=none", "sd-nkd:variant=public,exact_global=true"),
    *("fitnet:variant=channel-sum", "spkd:variant=norm", "vid:learned_scale=false", "crd:negatives=5"),
    *("subdistill:mapping=linear", "subdistill:mapping=soft-singular", "subdistill:dimension=full,normalise=false"),
    *("kd:standardise=true", "dkd:standardise=true", "subdistill:centring=running"),
    *("kd+at:layers=layer3+layer4", "icd+crd+e2kd:kd_weight=0", "random-control[subdistill]", "untrained-teacher[vkd]"),
    *("influence[kd]:refresh=1,iterations=5", "influence[e2kd+vid]:refresh=1,iterations=5"),
    *("influence[subdistill]:target=teacher,iterations=5", "influence[reviewkd]:refresh=1,iterations=5"),
]  # fmt: skip
Run = Callable[..., DistillRun]


@pytest.fixture(scope="module")
def run(make_pair: Callable[..., ModelPair], tiny_task: Task, tiny_fabric: Fabric) -> Run:
    """run(text, seed=0, cache_gb=2.0, folder=None) -> two short epochs by this method, kept for the next who asks."""

    train_set, held_out = tiny_task.train.take(range(28)), tiny_task.validation.take(range(8))
    task = dataclasses.replace(tiny_task, train=train_set, validation=held_out)

    @cache
    def train(text: str, seed: int = 0, cache_gb: float = 2.0, folder: Path | None = None) -> DistillRun:
        recipe = Recipe(epochs=2, batch_size=16, padding=1, views=1, cache_gb=cache_gb, precision="32-true")
        method = parse_method(text)
        return distill(make_pair(), task, method, recipe, seed=seed, folder=folder, fabric=tiny_fabric)

    return train


@pytest.mark.parametrize("text", TEXTS)
def test_it_trains_by_seed_with_a_cached_teacher_as_with_a_live_one(run: Run, text: str) -> None:
    cached = run(text)
    history = cached.history.drop(columns="seconds")
    assert np.isfinite(history.to_numpy()).all()
    torch.manual_seed(99)
    live = run(text, cache_gb=0.0)
    pd.testing.assert_frame_equal(live.history.drop(columns="seconds"), history, rtol=1e-3, atol=1e-4)
    for name, value in cached.student.state_dict().items():
        assert (live.student.state_dict()[name] - value).abs().max() <= 1e-3 + 1e-2 * value.abs().max()


@pytest.mark.parametrize("text", TEXTS)
def test_the_seed_decides(run: Run, text: str) -> None:
    torch.manual_seed(7)
    assert state_hash(run(text).student) != state_hash(run(text, seed=1).student)
    again = run(f"{text} ")  # the same method, trained once more
    pd.testing.assert_frame_equal(
        again.history.drop(columns="seconds"), run(text).history.drop(columns="seconds"), check_exact=True
    )
    assert state_hash(again.student) == state_hash(run(text).student)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "crd:negatives=5",
            "semckd",
            "influence[kd]:refresh=1,iterations=5",
            "influence[at]:refresh=1,target=both,pseudo=0.3,iterations=5",
        ),
        *(
            "random-control[kd]:noise=matched",
            "vid",
            "reviewkd",
            "vkd",
            "sd-dkd",
            "subdistill:centring=running",
            "kd+subdistill:mapping=soft-frobenius",
            "disdo",
        ),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    run: Run, text: str, tmp_path: Path, interrupted_after: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]
    original = StudentInput.__call__

    def count(self: StudentInput, indices: torch.Tensor, view: int) -> torch.Tensor:
        calls[0] += 1
        return original(self, indices, view)

    monkeypatch.setattr(StudentInput, "__call__", count)
    whole = run(f" {text}")
    monkeypatch.undo()
    with interrupted_after(calls[0] - 1):
        run(text, folder=tmp_path)
    assert torch.load(tmp_path / "resume.pt", weights_only=True)["epoch"] == 0
    resumed = run(f" {text}", folder=tmp_path)
    histories = [r.history.drop(columns="seconds") for r in (resumed, whole)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert state_hash(resumed.student) == state_hash(whole.student)
    if whole.influence is not None:
        pd.testing.assert_frame_equal(resumed.influence, whole.influence, check_exact=True)

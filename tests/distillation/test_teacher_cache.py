from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Criterion, Setting
from xaibench.distillation.distill import measure_moments
from xaibench.distillation.methods import SubDistill
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.teacher_cache import CachedTeacher, LiveTeacher, teacher_source
from xaibench.distillation.trainer import StudentInput
from xaibench.models.memory_format import memory_format
from xaibench.models.pair import ModelPair


@pytest.fixture
def criterion(tiny_pair: ModelPair, tiny_task: Task) -> Criterion:
    sample = tiny_pair.preprocessing(tiny_task.train.images[:2])
    labels = tiny_task.train.labels
    return SubDistill().build(Setting(tiny_pair, sample, lambda: measure_moments(tiny_pair, tiny_task.train), labels))


@pytest.fixture
def live(tiny_pair: ModelPair, criterion: Criterion) -> LiveTeacher:
    return LiveTeacher(tiny_pair.teacher, criterion, nullcontext, memory_format(tiny_pair.teacher))


@pytest.fixture
def inputs(tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe) -> StudentInput:
    form = memory_format(tiny_pair.student)
    return StudentInput(tiny_task.train, tiny_pair.preprocessing, tiny_recipe, 0, torch.device("cpu"), form)


@pytest.mark.parametrize("batch_size", [48, 20])
def test_the_cache_gives_what_the_teacher_says(live: LiveTeacher, inputs: StudentInput, batch_size: int) -> None:
    cached = teacher_source(live, inputs, 48, 3, budget=10**9, batch_size=batch_size)
    assert isinstance(cached, CachedTeacher)
    indices = torch.tensor([40, 3, 3, 17])
    for view in range(3):
        x = inputs(indices, view)
        have, want = cached(x, indices, view), live(x, indices, view)
        assert set(have) == set(want) == {"logits"} | {f"layer{i}:layer{i}" for i in (1, 2, 3, 4)}
        for name, value in have.items():
            assert value.shape == want[name].shape
            assert torch.allclose(value, want[name], atol=1e-5)
    assert not torch.allclose(cached(x, indices, 0)["logits"], cached(x, indices, 1)["logits"], atol=1e-4)


def test_the_budget_is_the_bytes_of_the_cache(live: LiveTeacher, inputs: StudentInput) -> None:
    cached = teacher_source(live, inputs, 48, 2, budget=10**9)
    assert isinstance(cached, CachedTeacher)
    cells = 3 + 4 * 144 + 6 * 36 + 8 * 9 + 8 * 4
    assert cached.nbytes == 2 * 48 * cells * 4
    assert isinstance(teacher_source(live, inputs, 48, 2, budget=cached.nbytes), CachedTeacher)
    assert teacher_source(live, inputs, 48, 2, budget=cached.nbytes - 1) is live


def test_pixels_that_never_repeat_are_not_cached(live: LiveTeacher) -> None:
    def refuse(_indices: Tensor, _view: int) -> Tensor:
        raise AssertionError("the teacher was asked")

    assert teacher_source(live, refuse, 48, 0, budget=10**9) is live


def test_a_summary_needs_no_gradient(live: LiveTeacher, inputs: StudentInput) -> None:
    summary = live(inputs(torch.arange(4), 0), torch.arange(4), 0)
    assert not any(value.requires_grad for value in summary.values())

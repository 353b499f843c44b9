from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Criterion, Setting
from xaibench.distillation.distill import DistillRun, distill, measure_moments
from xaibench.distillation.methods import DKD, KD, Method, SubDistill, UntrainedTeacher
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.teacher_cache import CachedTeacher, LiveTeacher, teacher_source
from xaibench.distillation.trainer import StudentInput
from xaibench.errors import ConfigError
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


class Memory(dict[str, Tensor]):
    """What is kept, by the text it is kept under."""

    def __call__(self, what: str, compute: Callable[[], Tensor]) -> Tensor:
        if what not in self:
            self[what] = compute()
        return self[what]


def test_logits_that_were_kept_serve_another_criterion(
    tiny_pair: ModelPair, tiny_task: Task, inputs: StudentInput
) -> None:
    memory, asked = Memory(), []

    def counted(indices: Tensor, view: int) -> Tensor:
        asked.append((len(indices), view))
        return inputs(indices, view)

    def source(method: Method) -> CachedTeacher:
        sample = tiny_pair.preprocessing(tiny_task.train.images[:2])
        criterion = method.build(Setting(tiny_pair, sample, dict, tiny_task.train.labels))
        live = LiveTeacher(tiny_pair.teacher, criterion, nullcontext, memory_format(tiny_pair.teacher))
        cached = teacher_source(live, counted, 48, 2, budget=10**9, batch_size=20, remember=partial(memory, "views"))
        assert isinstance(cached, CachedTeacher)
        return cached

    first = source(KD())
    assert asked == [(2, 0), (20, 0), (20, 0), (8, 0), (20, 1), (20, 1), (8, 1)]
    second = source(KD(temperature=2) + DKD())
    assert asked[7:] == [(2, 0)]
    assert memory["views"].shape == (96, 3)
    indices = torch.tensor([40, 3, 3, 17])
    for view in range(2):
        x = inputs(indices, view)
        assert torch.equal(first(x, indices, view)["logits"], second(x, indices, view)["logits"])
        assert torch.equal(first(x, indices, view)["logits"], memory["views"][48 * view + indices])


@pytest.mark.parametrize("kept", [None, torch.zeros(3, 4)], ids=["none", "shape"])
def test_what_is_no_kept_logits_is_refused(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric, kept: Tensor
) -> None:
    with pytest.raises(ConfigError, match=r"remember gave .* where 24 x 3 logits were asked for: give"):
        distill(tiny_pair, tiny_task, KD(), tiny_recipe, fabric=tiny_fabric, remember=lambda what, compute: kept)


def test_a_criterion_that_reads_layers_asks_for_itself(live: LiveTeacher, inputs: StudentInput) -> None:
    memory = Memory()
    teacher_source(live, inputs, 48, 2, budget=10**9, remember=partial(memory, "views"))
    assert not memory


def test_students_share_the_teachers_logits_and_are_the_same_without(
    tiny_pair: ModelPair,
    tiny_task: Task,
    tiny_recipe: Recipe,
    tiny_fabric: Fabric,
    assert_same: Callable[[DistillRun, DistillRun], None],
) -> None:
    memory = Memory()
    recipe = dataclasses.replace(tiny_recipe, views=2, epochs=2)

    def train(method: Method, **options: Any) -> DistillRun:
        return distill(tiny_pair, tiny_task, method, recipe, fabric=tiny_fabric, **options)

    train(KD(), remember=memory)
    assert [len(logits) for logits in memory.values()] == [24, 2 * 48]
    assert_same(train(KD(alpha=0.5), remember=memory), train(KD(alpha=0.5)))
    assert_same(train(SubDistill(), remember=memory), train(SubDistill()))
    assert_same(train(UntrainedTeacher(KD()), remember=memory), train(UntrainedTeacher(KD())))
    assert len(memory) == 2


@pytest.mark.parametrize("changes", [{"seed": 1}, {"padding": 2}, {"augment": "crop"}, {"views": 1}])
def test_other_views_are_not_taken_for_these(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric, changes: dict[str, Any]
) -> None:
    memory = Memory()
    for options in ({}, changes):
        fields = {"views": 2, "epochs": 2, "seed": 0} | options
        distill(tiny_pair, tiny_task, KD(), tiny_recipe, fabric=tiny_fabric, remember=memory, **fields)
    assert sorted(len(logits) for logits in memory.values()) == sorted([24, 96, 48 * (changes.get("views", 2))])


def test_another_teacher_other_images_and_another_preprocessing_share_nothing(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    memory = Memory()
    other = dataclasses.replace(tiny_pair, teacher=tiny_pair.student)
    scaled = dataclasses.replace(tiny_pair.preprocessing, mean=(0.1, 0.2, 0.3))
    fewer = dataclasses.replace(tiny_task, train=tiny_task.train.take(range(32)))
    for pair, task in (
        (tiny_pair, tiny_task),
        (other, tiny_task),
        (dataclasses.replace(tiny_pair, preprocessing=scaled), tiny_task),
        (tiny_pair, fewer),
    ):
        distill(pair, task, KD(), tiny_recipe, fabric=tiny_fabric, remember=memory, views=1, epochs=1)
    assert sorted(len(logits) for logits in memory.values()) == [24, 24, 24, 32, 48, 48, 48]

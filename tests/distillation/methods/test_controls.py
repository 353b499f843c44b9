from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Batch, Setting
from xaibench.distillation.distill import DistillRun, distill
from xaibench.distillation.methods import (
    DISDO,
    KD,
    SIDDO,
    RandomControl,
    StudentOnly,
    SubDistill,
    UntrainedTeacher,
    parse_method,
)
from xaibench.distillation.recipe import Recipe
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import untrained
from xaibench.models.layer_outputs import Outputs
from xaibench.models.pair import ModelPair
from xaibench.subspace import LayerMoments

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]
Job = Callable[..., DistillRun]
Same = Callable[[DistillRun, DistillRun], None]


def stranger(setting: Setting) -> ModelPair:
    return dataclasses.replace(setting.pair, teacher=untrained(setting.pair.teacher, 77).eval())


@pytest.mark.parametrize(
    "text",
    ["kd", "dkd", "dist", "at", "spkd", "rkd", "vkd", "crd", "semckd", "reviewkd", "sd-kd", "icd", "e2kd", "kd+vid"],
)
def test_the_random_control_never_looks_at_the_teacher(text: str, setting: Setting, evaluate: Evaluate) -> None:
    method = parse_method(text)
    plain, control = (m.build(setting).eval() for m in (method, RandomControl(method)))
    if text == "crd":
        for criterion in (plain, control):
            criterion.train()  # the first step fixes its scale
            evaluate(criterion, setting.pair)
            criterion.eval()
    other = stranger(setting)
    assert torch.equal(evaluate(control, setting.pair)[0], evaluate(control, other)[0])
    assert not torch.allclose(evaluate(plain, setting.pair)[0], evaluate(plain, other)[0])
    assert control.weights == plain.weights


def test_its_noise_is_drawn_anew_at_each_step_by_seed(setting: Setting, evaluate: Evaluate) -> None:
    method = RandomControl(KD(alpha=1))
    criterion = method.build(setting)
    first = evaluate(criterion, setting.pair)[0]
    assert torch.equal(first, evaluate(criterion, setting.pair)[0])
    assert not torch.allclose(first, evaluate(criterion, setting.pair, epoch=1)[0])
    assert not torch.allclose(first[1:], evaluate(criterion, setting.pair, rows=(9, 1, 2, 3, 4, 5, 6, 7))[0][1:])
    again, other = (method.build(dataclasses.replace(setting, seed=seed)) for seed in (setting.seed, 8))
    assert torch.equal(first, evaluate(again, setting.pair)[0])
    assert not torch.allclose(first, evaluate(other, setting.pair)[0])


@pytest.mark.parametrize("noise", ["uniform", "matched"])
def test_the_noise_is_what_it_says(noise: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = RandomControl(KD(), noise=noise).build(setting)
    seen: list[Mapping[str, Tensor]] = []
    original = criterion.inner.terms  # type: ignore[union-attr]
    monkeypatch.setattr(criterion.inner, "terms", lambda s, t, b: seen.append(t) or original(s, t, b))
    given = torch.tensor([5.0, -2.0, 0.0]) + torch.tensor([3.0, 1.0, 0.0]) * torch.linspace(-1, 1, 8)[:, None]
    for epoch in range(400):
        batch = Batch(torch.arange(8), torch.zeros(8, dtype=torch.long), epoch)
        criterion(Outputs(torch.zeros(8, 3), {}), {"logits": given}, batch)
    noises = torch.stack([summary["logits"] for summary in seen])
    assert noises.shape == (400, 8, 3)
    if noise == "uniform":
        assert 0 <= noises.min() < 0.01 < 0.99 < noises.max() < 1
        assert noises.mean().item() == pytest.approx(0.5, abs=0.02)
    else:
        assert torch.allclose(noises.mean((0, 1)), given.mean(0), atol=0.2)
        assert torch.allclose(noises.std((0, 1)), given.std(0, correction=0), rtol=0.1)


def test_a_random_control_run_depends_on_no_teacher(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    other = dataclasses.replace(tiny_pair, teacher=untrained(tiny_pair.teacher, 77).eval())
    runs = [
        distill(pair, tiny_task, RandomControl(parse_method("kd+at")), tiny_recipe, fabric=tiny_fabric)
        for pair in (tiny_pair, other)
    ]
    assert state_hash(runs[0].student) == state_hash(runs[1].student)


def test_an_untrained_teacher_is_another_one_by_seed(setting: Setting) -> None:
    pair, method = setting.pair, UntrainedTeacher(KD())
    before = state_hash(pair.teacher)
    prepared = [method.prepare(pair, seed) for seed in (1, 1, 2)]
    hashes = [state_hash(p.teacher) for p in prepared]
    assert hashes[0] == hashes[1]
    assert len({before, *hashes}) == 3
    assert state_hash(pair.teacher) == before
    for p in prepared:
        assert p.student is pair.student
        assert not p.teacher.training
        assert not any(parameter.requires_grad for parameter in p.teacher.parameters())


def test_the_wrapped_method_trains_with_the_untrained_teacher_and_its_subspaces(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    def refuse() -> Mapping[str, LayerMoments]:
        raise AssertionError("these are the trained teacher's")

    method = UntrainedTeacher(SubDistill())
    run = distill(tiny_pair, tiny_task, method, tiny_recipe, measure=refuse, fabric=tiny_fabric)
    same = distill(method.prepare(tiny_pair, 0), tiny_task, SubDistill(), tiny_recipe, fabric=tiny_fabric)
    assert state_hash(run.student) == state_hash(same.student)
    plain = distill(tiny_pair, tiny_task, SubDistill(), tiny_recipe, fabric=tiny_fabric)
    assert state_hash(run.student) != state_hash(plain.student)


def test_siddo_is_the_same_student_on_the_same_data_in_another_order(
    job: Job, tiny_pair: ModelPair, assert_same: Same
) -> None:
    method = SIDDO()
    assert method.prepare(tiny_pair, 0) is tiny_pair
    assert len({method.data_seed(seed) for seed in range(50)} | set(range(50))) == 100
    run = job(method)
    assert_same(run, job(StudentOnly(), seed=method.data_seed(0)))
    assert state_hash(run.student) != state_hash(job(StudentOnly()).student)


def test_disdo_starts_from_another_initialisation_on_the_same_data(job: Job, tiny_pair: ModelPair) -> None:
    before = state_hash(tiny_pair.student)
    starts = [DISDO().prepare(tiny_pair, seed).student for seed in (0, 0, 1)]
    hashes = [state_hash(student) for student in starts]
    assert hashes[0] == hashes[1]
    assert len({before, *hashes}) == 3
    assert state_hash(tiny_pair.student) == before
    assert DISDO().data_seed(3) == 3
    for name, weight in tiny_pair.student.named_parameters():
        if weight.ndim == 4 and weight.numel() > 200:
            fresh = dict(starts[0].named_parameters())[name]
            assert fresh.std().item() == pytest.approx(weight.std().item(), rel=0.3)
    assert len({state_hash(job(method).student) for method in (DISDO(), SIDDO(), StudentOnly())}) == 3


@pytest.mark.parametrize("text", ["student-only", "label-smoothing", "siddo", "disdo", "random-control[siddo]"])
def test_controls_without_a_teacher_ask_none(text: str, setting: Setting) -> None:
    assert not parse_method(text).build(setting).needs_teacher

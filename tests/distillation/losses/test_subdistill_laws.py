from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.subdistill import CENTRINGS, Centring, SubspaceLoss, subspace_loss, subspace_target
from xaibench.models.maps import pool_to
from xaibench.subspace import Basis

K = 4
Draw = Callable[..., Tensor]
MakeBasis = Callable[..., Basis]
seeds = st.integers(0, 999)


def rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def linear_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


@settings(deadline=None, max_examples=20)
@given(seed=seeds, kind=st.sampled_from(["prcaposdef", "pca", "random"]), side=st.sampled_from([2, 4]))
def test_a_rotation_of_the_projected_teacher_has_loss_zero_and_cka_one(
    orthogonal: Draw, teacher_maps: Draw, basis_of: MakeBasis, seed: int, kind: str, side: int
) -> None:
    teacher, turn = teacher_maps(seed), orthogonal(K, seed + 1)
    basis = basis_of(teacher, kind)
    projected = pool_to(basis.project(teacher), (side, side))
    student = torch.einsum("ij,bjhw->bihw", turn, projected) + 7
    target = subspace_target(teacher, basis, (side, side))
    loss = subspace_loss(Centring(K, "mean").double()(student), target, turn.T, basis.energy)
    assert loss.max() < 1e-20
    assert linear_cka(rows(student), rows(projected)) == pytest.approx(1, abs=1e-10)
    wrong = subspace_loss(Centring(K, "mean").double()(student), target, -turn.T, basis.energy)
    assert wrong.mean() > 0.1


@settings(deadline=None, max_examples=20)
@given(seed=seeds, kind=st.sampled_from(["mean", "none"]))
def test_a_common_rotation_changes_nothing(
    normal: Draw, orthogonal: Draw, teacher_maps: Draw, basis_of: MakeBasis, seed: int, kind: str
) -> None:
    teacher, student = teacher_maps(seed), normal(5, K, 4, 4, seed=seed)
    rotation, turn = orthogonal(K, seed), orthogonal(K, seed + 1)
    basis = basis_of(teacher)
    target = subspace_target(teacher, basis, (4, 4))
    turned = torch.einsum("ij,bjhw->bihw", turn, student)
    losses = [
        subspace_loss(Centring(K, kind).double()(s), target, r, basis.energy)
        for s, r in ((student, rotation), (turned, rotation @ turn.T))
    ]
    assert torch.allclose(*losses, rtol=1e-10)


@pytest.mark.parametrize("kind", ["prcaposdef", "pca", "identity", "random"])
@pytest.mark.parametrize("centring", CENTRINGS)
def test_a_student_that_says_nothing_has_loss_one(
    orthogonal: Draw, teacher_maps: Draw, basis_of: MakeBasis, kind: str, centring: str
) -> None:
    teacher = teacher_maps()
    basis = basis_of(teacher, kind)
    target = subspace_target(teacher, basis, (4, 4))
    silent = Centring(K, centring).double()(torch.zeros(5, K, 4, 4).double())
    loss = subspace_loss(silent, target, orthogonal(K), basis.energy)
    assert loss.mean().item() == pytest.approx(1, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(5)), kind=st.sampled_from(CENTRINGS))
def test_the_order_of_the_batch_only_orders_the_losses(
    normal: Draw, teacher_maps: Draw, basis_of: MakeBasis, order: list[int], kind: str
) -> None:
    teacher, student = teacher_maps(), normal(5, K, 8, 8, seed=1)
    loss = SubspaceLoss(basis_of(teacher), (K, 8, 8), centring=kind).double()
    target = loss.target(teacher)
    assert torch.allclose(loss(student[order], target[order]), loss(student, target)[order], rtol=1e-9)


@settings(deadline=None, max_examples=8)
@given(seed=seeds, k=st.integers(1, 6), lr=st.sampled_from([1e-3, 1e-1]))
def test_the_rotation_stays_orthogonal_while_it_learns(
    orthogonal: Draw, teacher_maps: Draw, basis_of: MakeBasis, seed: int, k: int, lr: float
) -> None:
    teacher = teacher_maps(seed)
    torch.manual_seed(seed)
    loss = SubspaceLoss(basis_of(teacher, k=k), (k, 4, 4), centring="mean")
    target = loss.target(teacher).float()
    student = torch.einsum("ij,bjhw->bihw", orthogonal(k, seed).float(), target) * loss.basis.energy**0.5
    optimizer = torch.optim.AdamW(loss.parameters(), lr=lr)
    first = loss(student, target).mean()
    assume(k == 1 or first.item() > 0.01)  # from near the minimum, which one draw in 400 hits, steps lead up
    start, before = first.item(), loss.rotation.weight.detach().clone()
    for _ in range(15):
        optimizer.zero_grad()
        loss(student, target).mean().backward()
        optimizer.step()
    rotation = loss.rotation.weight.detach()
    assert torch.allclose(rotation @ rotation.T, torch.eye(k), atol=1e-5)
    if k > 1:  # one dimension has nothing to turn
        assert not torch.allclose(rotation, before, atol=1e-6)
        assert loss(student, target).mean().item() < start

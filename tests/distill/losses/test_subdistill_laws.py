from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distill.losses.subdistill import (
    CENTRINGS,
    Centring,
    SubspaceHead,
    pool_to,
    subspace_loss,
    subspace_target,
)
from xaibench.subspace import Basis, MomentAccumulator, make_basis

D, K = 6, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(k: int = K, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(k, k, seed=seed)).Q


def teacher_maps(seed: int = 0, side: int = 4) -> Tensor:
    return normal(5, D, side, side, seed=seed) * torch.linspace(0.2, 2, D)[:, None, None] + 1


def basis_of(h: Tensor, kind: str = "prcaposdef", k: int = K) -> Basis:
    """The basis measured on these very maps, so that mu and the energy are theirs."""
    sums = MomentAccumulator(D)
    rows = h.permute(0, 2, 3, 1).reshape(-1, D)
    sums.update(rows, normal(len(rows), D, seed=99))
    return make_basis(sums.result(), kind, k)


def maps_to_rows(h: Tensor) -> Tensor:
    return h.permute(0, 2, 3, 1).reshape(-1, h.shape[1])


seeds = st.integers(0, 999)


def linear_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


@settings(deadline=None, max_examples=20)
@given(seed=seeds, kind=st.sampled_from(["prcaposdef", "pca", "random"]), side=st.sampled_from([2, 4]))
def test_a_rotation_of_the_projected_teacher_has_loss_zero_and_cka_one(seed: int, kind: str, side: int) -> None:
    teacher, turn = teacher_maps(seed), orthogonal(seed=seed + 1)
    basis = basis_of(teacher, kind)
    projected = pool_to(basis.project(teacher), (side, side))
    student = torch.einsum("ij,bjhw->bihw", turn, projected) + 7
    target = subspace_target(teacher, basis, (side, side))
    loss = subspace_loss(Centring(K, "mean").double()(student), target, turn.T, basis.energy)
    assert loss.max() < 1e-20
    assert linear_cka(maps_to_rows(student), maps_to_rows(projected)) == pytest.approx(1, abs=1e-10)
    wrong = subspace_loss(Centring(K, "mean").double()(student), target, -turn.T, basis.energy)
    assert wrong.mean() > 0.1


@settings(deadline=None, max_examples=20)
@given(seed=seeds, kind=st.sampled_from(["mean", "none"]))
def test_a_common_rotation_changes_nothing(seed: int, kind: str) -> None:
    teacher, student = teacher_maps(seed), normal(5, K, 4, 4, seed=seed)
    rotation, turn = orthogonal(seed=seed), orthogonal(seed=seed + 1)
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
def test_a_student_that_says_nothing_has_loss_one(kind: str, centring: str) -> None:
    teacher = teacher_maps()
    basis = basis_of(teacher, kind)
    target = subspace_target(teacher, basis, (4, 4))
    loss = subspace_loss(
        Centring(K, centring).double()(torch.zeros(5, K, 4, 4).double()), target, orthogonal(), basis.energy
    )
    assert loss.mean().item() == pytest.approx(1, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(5)), kind=st.sampled_from(CENTRINGS))
def test_the_order_of_the_batch_only_orders_the_losses(order: list[int], kind: str) -> None:
    teacher, student = teacher_maps(), normal(5, K, 8, 8, seed=1)
    head = SubspaceHead(basis_of(teacher), kind).double()
    target = subspace_target(teacher, head.basis, (4, 4))
    assert torch.allclose(head(student[order], target[order]), head(student, target)[order], rtol=1e-9)


@settings(deadline=None, max_examples=8)
@given(seed=seeds, k=st.integers(1, 6), lr=st.sampled_from([1e-3, 1e-1]))
def test_the_rotation_stays_orthogonal_while_it_learns(seed: int, k: int, lr: float) -> None:
    teacher = teacher_maps(seed)
    torch.manual_seed(seed)
    head = SubspaceHead(basis_of(teacher, k=k), "mean")
    target = subspace_target(teacher, head.basis, (4, 4)).float()
    student = torch.einsum("ij,bjhw->bihw", orthogonal(k, seed).float(), target) * head.basis.energy**0.5
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    start, before = head(student, target).mean().item(), head.rotation.weight.detach().clone()
    for _ in range(15):
        optimizer.zero_grad()
        head(student, target).mean().backward()
        optimizer.step()
    rotation = head.rotation.weight.detach()
    assert torch.allclose(rotation @ rotation.T, torch.eye(k), atol=1e-5)
    if k > 1:  # one dimension has nothing to turn
        assert not torch.allclose(rotation, before, atol=1e-6)
        assert head(student, target).mean().item() < start

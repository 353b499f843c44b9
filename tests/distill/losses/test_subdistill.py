from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xaibench.distill.losses.subdistill import (
    CENTRINGS,
    Centring,
    SubspaceHead,
    pool_to,
    subspace_loss,
    subspace_target,
)
from xaibench.errors import ConfigError, UnknownNameError
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


@pytest.fixture(scope="module")
def public(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "subdistill.npz"))


@pytest.mark.parametrize(
    ("features", "training", "key"),
    [
        ("student_feats", True, "subdistill_layer_loss_train_mode(peer_bn: first batch, z-scored)"),
        ("student_feats_10x10", True, "subdistill_layer_loss_train_mode_spatial_mismatch"),
        ("student_feats", False, "subdistill_layer_loss_eval_mode(mean only, running mean = batch mean)"),
    ],
)
def test_the_layer_loss_is_the_public_codes(
    public: dict[str, np.ndarray], golden: Path, features: str, training: bool, key: str
) -> None:
    values = json.loads((golden / "subdistill.json").read_text())
    energy = float(public["prcaposdef_scale_factors"][:8].sum())
    assert energy == pytest.approx(values["subdistill_scaling_factor"], rel=1e-9)
    vectors, mean = torch.tensor(public["prcaposdef_U"])[:, :8], torch.tensor(public["mean"])
    basis = Basis(vectors, mean, energy, 1.0, "prcaposdef")
    student = torch.tensor(public[features])
    target = subspace_target(torch.tensor(public["teacher_feats"]), basis, (student.shape[2], student.shape[3]))
    centring = Centring(8, "peer_bn").train(training)
    if not training:
        centring.mean.copy_(student.mean((0, 2, 3)))
    centred = centring(pool_to(student, (target.shape[2], target.shape[3])))
    loss = subspace_loss(centred, target, torch.tensor(public["rotation"]), energy).mean().item()
    assert loss == pytest.approx(values[key], rel=1e-5)


def test_the_loss_is_the_definition() -> None:
    teacher, student, rotation = teacher_maps(), normal(5, K, 4, 4, seed=1), orthogonal()
    basis = basis_of(teacher)
    have = subspace_loss(student, subspace_target(teacher, basis, (4, 4)), rotation, basis.energy)
    assert have.dtype == torch.float64
    for b in range(5):
        total = 0.0
        for i in range(4):
            for j in range(4):
                projected = basis.vectors.T @ (teacher[b, :, i, j] - basis.mean)
                total += (rotation @ student[b, :, i, j] - projected).square().sum().item()
        assert have[b].item() == pytest.approx(total / 16 / basis.energy, rel=1e-10)


def slow_pool(maps: Tensor, h: int, w: int) -> Tensor:
    out = torch.zeros(*maps.shape[:2], h, w, dtype=maps.dtype)
    height, width = maps.shape[2:]
    for i in range(h):
        for j in range(w):
            rows = range(i * height // h, -((i + 1) * height // -h))
            columns = range(j * width // w, -((j + 1) * width // -w))
            cells = [maps[:, :, r, c] for r in rows for c in columns]
            out[:, :, i, j] = sum(cells) / len(cells)  # type: ignore[assignment]
    return out


@pytest.mark.parametrize(("size", "want"), [((2, 2), (2, 2)), ((3, 5), (3, 5)), ((9, 2), (6, 2)), ((9, 9), (6, 5))])
def test_pooling_only_makes_smaller(size: tuple[int, int], want: tuple[int, int]) -> None:
    maps = normal(2, 3, 6, 5)
    assert torch.allclose(pool_to(maps, size), slow_pool(maps, *want), atol=1e-12)


def slow_centring(h: Tensor, kind: str, training: bool, mean: list[float], var: list[float]) -> Tensor:
    out = h.clone()
    for c in range(h.shape[1]):
        values = h[:, c].flatten().tolist()
        batch_mean = sum(values) / len(values)
        batch_var = sum((v - batch_mean) ** 2 for v in values) / len(values)
        m, v = (batch_mean, batch_var) if training else (mean[c], var[c])
        if kind != "none":
            out[:, c] -= m
        if kind == "zscore" or (kind == "peer_bn" and training):
            out[:, c] /= (v + 1e-5) ** 0.5
    return out


@pytest.mark.parametrize("kind", CENTRINGS)
def test_centring_in_training_and_evaluation(kind: str) -> None:
    centring = Centring(K, kind).double()
    mean, var = [0.0] * K, [1.0] * K
    for step in range(3):
        h = 3 * normal(5, K, 3, 2, seed=step) + torch.arange(K).view(-1, 1, 1)
        assert torch.allclose(centring(h), slow_centring(h, kind, True, mean, var), atol=1e-12)
        for c in range(K):
            mean[c] = 0.9 * mean[c] + 0.1 * h[:, c].mean().item()
            var[c] = 0.9 * var[c] + 0.1 * h[:, c].var().item()
    centring.eval()
    kept = centring.mean.clone()
    if kind != "none":
        assert torch.allclose(kept, torch.tensor(mean).double())
    assert torch.allclose(centring(h), slow_centring(h, kind, False, mean, var), atol=1e-6)
    assert torch.equal(centring.mean, kept)


def test_the_batch_mean_is_part_of_the_gradient() -> None:
    h = normal(5, K, 3, 3).requires_grad_()
    Centring(K, "mean").double()(h)[:, 0].sum().backward()
    assert h.grad is not None
    assert h.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kind", CENTRINGS)
def test_gradients(kind: str) -> None:
    teacher, rotation = teacher_maps(side=2)[:3], orthogonal()
    basis = basis_of(teacher)
    target = subspace_target(teacher, basis, (2, 2))

    def loss(student: Tensor, rotation: Tensor) -> Tensor:
        return subspace_loss(Centring(K, kind).double()(pool_to(student, (2, 2))), target, rotation, basis.energy)

    assert torch.autograd.gradcheck(loss, (normal(3, K, 4, 4).requires_grad_(), rotation.requires_grad_()))


def test_the_head_pools_first_and_then_centres() -> None:
    teacher, student = teacher_maps(), normal(5, K, 8, 8, seed=1)
    head = SubspaceHead(basis_of(teacher), "peer_bn").double()
    target = subspace_target(teacher, head.basis, (8, 8))
    assert target.shape == (5, K, 4, 4)
    want = slow_centring(slow_pool(student, 4, 4), "peer_bn", True, [], [])
    assert torch.allclose(
        head(student, target), subspace_loss(want, target, head.rotation.weight, head.basis.energy), rtol=1e-9
    )


def test_mixed_precision_keeps_the_loss_in_float32() -> None:
    teacher, student = teacher_maps().float(), normal(5, K, 4, 4, seed=1).float()
    head = SubspaceHead(basis_of(teacher.double()), "peer_bn")
    exact = head(student, subspace_target(teacher, head.basis, (4, 4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(student.bfloat16(), subspace_target(teacher, head.basis, (4, 4)))
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=2e-2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"student features \(1, 4, 2, 2\) and target \(1, 4, 3, 3\) must agree"):
        subspace_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 3, 3), torch.eye(4), 1.0)
    with pytest.raises(UnknownNameError, match="unknown centring 'peerbn': did you mean 'peer_bn'"):
        Centring(3, "peerbn")

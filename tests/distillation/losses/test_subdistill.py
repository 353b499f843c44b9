from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.subdistill import (
    CENTRINGS,
    MAPPINGS,
    Centring,
    SubspaceLoss,
    orthogonality_penalty,
    subspace_loss,
    subspace_target,
)
from xaibench.errors import ConfigError, UnknownNameError
from xaibench.models.maps import pool_to
from xaibench.subspace import Basis

K = 4
DIFFERENTIABLE = [kind for kind in CENTRINGS if kind != "running"]  # which takes its mean for a constant
Normal = Callable[..., Tensor]
Maps = Callable[..., Tensor]
MakeBasis = Callable[..., Basis]


@pytest.mark.parametrize(
    ("features", "training", "key"),
    [
        ("student_feats", True, "subdistill_layer_loss_train_mode(peer_bn: first batch, z-scored)"),
        ("student_feats_10x10", True, "subdistill_layer_loss_train_mode_spatial_mismatch"),
        ("student_feats", False, "subdistill_layer_loss_eval_mode(mean only, running mean = batch mean)"),
    ],
)
def test_the_layer_loss_is_the_public_codes(  # type: ignore[no-untyped-def]
    public: dict[str, Tensor], expected, features: str, training: bool, key: str
) -> None:
    values, student = expected("subdistill"), public[features]
    energy = float(public["prcaposdef_scale_factors"][:8].sum())
    assert energy == pytest.approx(values["subdistill_scaling_factor"], rel=1e-9)
    basis = Basis(public["prcaposdef_U"][:, :8], public["mean"], energy, 1.0, "prcaposdef")
    loss = SubspaceLoss(basis, tuple(student.shape[1:]), centring="peer_bn").train(training)  # type: ignore[arg-type]
    with torch.no_grad():
        loss.rotation.weight = public["rotation"]  # sets the matrix behind the parametrisation
        if not training:
            loss.centring.mean.copy_(student.mean((0, 2, 3)))
    assert torch.allclose(loss.rotation.weight, public["rotation"], atol=1e-6)
    assert loss(student, loss.target(public["teacher_feats"])).mean().item() == pytest.approx(values[key], rel=1e-5)


def test_the_loss_is_the_definition(
    normal: Normal, orthogonal: Normal, teacher_maps: Maps, basis_of: MakeBasis
) -> None:
    teacher, student, rotation = teacher_maps(), normal(5, K, 4, 4, seed=1), orthogonal(K)
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


def test_a_running_mean_is_a_constant_that_the_first_batch_sets(normal: Normal) -> None:
    """As the authors' test of it has it: the first batch's mean, then 0.9 of it + 0.1 of the second's."""
    centring, mean = Centring(K, "running").double(), torch.zeros(K).double()
    for step in range(3):
        h = (3 * normal(5, K, 3, 2, seed=step) + torch.arange(K).view(-1, 1, 1)).requires_grad_()
        batch = h.detach().mean((0, 2, 3))
        mean = batch if step == 0 else 0.9 * mean + 0.1 * batch
        out = centring(h)
        assert torch.allclose(out, h - mean[:, None, None], atol=1e-12)
        (gradient,) = torch.autograd.grad(out.square().sum(), h)
        assert torch.allclose(gradient, 2 * out, atol=1e-12)
    assert torch.allclose(centring.eval()(h), out, atol=1e-12)
    again = Centring(K, "running").double()
    again.load_state_dict(centring.state_dict())
    assert torch.allclose(again(h), h - (0.9 * mean + 0.1 * batch)[:, None, None], atol=1e-12)


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


@pytest.mark.parametrize("kind", DIFFERENTIABLE)
def test_centring_in_training_and_evaluation(normal: Normal, kind: str) -> None:
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


def test_the_batch_mean_is_part_of_the_gradient(normal: Normal) -> None:
    h = normal(5, K, 3, 3).requires_grad_()
    Centring(K, "mean").double()(h)[:, 0].sum().backward()
    assert h.grad is not None
    assert h.grad.abs().max() < 1e-12


@pytest.mark.parametrize("kind", DIFFERENTIABLE)
def test_gradients(normal: Normal, orthogonal: Normal, teacher_maps: Maps, basis_of: MakeBasis, kind: str) -> None:
    teacher, rotation = teacher_maps(side=2)[:3], orthogonal(K)
    basis = basis_of(teacher)
    target = subspace_target(teacher, basis, (2, 2))

    def loss(student: Tensor, rotation: Tensor) -> Tensor:
        return subspace_loss(Centring(K, kind).double()(pool_to(student, (2, 2))), target, rotation, basis.energy)

    assert torch.autograd.gradcheck(loss, (normal(3, K, 4, 4).requires_grad_(), rotation.requires_grad_()))


def test_features_are_pooled_first_and_then_centred(normal: Normal, teacher_maps: Maps, basis_of: MakeBasis) -> None:
    teacher, student = teacher_maps(), normal(5, K, 8, 8, seed=1)
    loss = SubspaceLoss(basis_of(teacher), (K, 8, 8), centring="peer_bn").double()
    target = loss.target(teacher)
    assert target.shape == (5, K, 4, 4)
    want = slow_centring(F.avg_pool2d(student, 2), "peer_bn", True, [], [])
    assert torch.allclose(
        loss(student, target), subspace_loss(want, target, loss.rotation.weight, loss.basis.energy), rtol=1e-9
    )


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), k=st.integers(1, 6))
def test_in_full_dimension_a_teacher_that_is_an_embedding_of_the_student_has_loss_zero(
    normal: Normal, orthogonal: Normal, basis_of: MakeBasis, seed: int, k: int
) -> None:
    student, embedding = normal(5, k, 3, 3, seed=seed), orthogonal(6, seed)[:, :k]
    teacher = torch.einsum("dk,bkhw->bdhw", embedding, student) + normal(6, 1, 1, seed=seed + 1)
    basis = basis_of(teacher, "random", 6)
    loss = SubspaceLoss(basis, (k, 3, 3), centring="mean").double()
    start = loss(student, loss.target(teacher)).mean().item()
    with torch.no_grad():
        loss.rotation.weight = basis.vectors.T @ embedding
    assert loss(student, loss.target(teacher)).max() < 1e-20
    assert start > 1e-3


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_without_normalisation_the_loss_is_the_teachers_energy_larger(
    normal: Normal, teacher_maps: Maps, basis_of: MakeBasis, mapping: str
) -> None:
    teacher, student = teacher_maps(), normal(5, K, 4, 4, seed=1)
    values = []
    for normalise in (True, False):
        torch.manual_seed(0)
        loss = SubspaceLoss(basis_of(teacher), (K, 4, 4), mapping=mapping, normalise=normalise).double()
        values.append(loss(student, loss.target(teacher)))
    assert torch.allclose(values[1], values[0] * loss.basis.energy, rtol=1e-6)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("m", [K, 6])
def test_every_mapping_starts_orthonormal_and_only_the_rotation_has_to_stay_so(
    normal: Normal, teacher_maps: Maps, basis_of: MakeBasis, mapping: str, m: int
) -> None:
    torch.manual_seed(0)
    teacher = teacher_maps().float()
    loss = SubspaceLoss(basis_of(teacher_maps(), k=m), (K, 4, 4), mapping=mapping)
    assert torch.allclose(loss.rotation.weight.T @ loss.rotation.weight, torch.eye(K), atol=1e-5)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    loss(normal(5, K, 4, 4).float(), loss.target(teacher)).mean().backward()
    optimizer.step()
    weight = loss.rotation.weight.detach()
    assert torch.allclose(weight.T @ weight, torch.eye(K), atol=1e-5) is (mapping == "rotation")


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), lengths=st.lists(st.floats(0.1, 3), min_size=3, max_size=3))
def test_the_penalties_are_the_distance_of_singular_values_from_one(
    orthogonal: Normal, seed: int, lengths: list[float]
) -> None:
    left, right = orthogonal(5, seed)[:, :3], orthogonal(3, seed + 1)
    weight = left @ torch.diag(torch.tensor(lengths, dtype=torch.float64)) @ right
    singular, frobenius = (orthogonality_penalty(weight, f"soft-{kind}").item() for kind in ("singular", "frobenius"))
    assert singular == pytest.approx(sum((v - 1) ** 2 for v in lengths), abs=1e-10)
    assert frobenius == pytest.approx(sum((v * v - 1) ** 2 for v in lengths), abs=1e-10)
    for kind in ("singular", "frobenius"):
        assert orthogonality_penalty(left, f"soft-{kind}").item() < 1e-25


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_only_the_soft_mappings_have_a_penalty(teacher_maps: Maps, basis_of: MakeBasis, mapping: str) -> None:
    loss = SubspaceLoss(basis_of(teacher_maps()), (K, 4, 4), mapping=mapping)
    penalty = loss.penalty()
    assert (penalty is not None) is mapping.startswith("soft")
    if penalty is not None:
        torch.nn.init.zeros_(loss.rotation.weight)
        assert loss.penalty().item() == K  # type: ignore[union-attr]
        weight = torch.randn(K, K, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda w: orthogonality_penalty(w, mapping), weight)


def test_what_does_not_fit_is_refused(teacher_maps: Maps, basis_of: MakeBasis) -> None:
    with pytest.raises(ConfigError, match=r"student \(1, 4, 2, 2\) and teacher \(1, 4, 3, 3\) must agree"):
        subspace_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 3, 3), torch.eye(4), 1.0)
    with pytest.raises(UnknownNameError, match="unknown centring 'peerbn': did you mean 'peer_bn'"):
        Centring(3, "peerbn")
    with pytest.raises(UnknownNameError, match="unknown mapping 'rotate': did you mean 'rotation'"):
        SubspaceLoss(basis_of(teacher_maps()), (K, 4, 4), mapping="rotate")
    with pytest.raises(
        ConfigError, match="5 student channels do not fit into 4 directions: take a basis of at least 5"
    ):
        SubspaceLoss(basis_of(teacher_maps()), (5, 4, 4))

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.representations import distance_correlation, linear_cka
from xaibench.similarity.subspaces import (
    Frame,
    FrameFit,
    at_one_size,
    cosines,
    direction_cosines,
    locations,
    random_rotation,
    ratio_interval,
    relevance_by_direction,
    relevance_shares,
    residuals,
)
from xaibench.subspace import MomentAccumulator, make_basis


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(d: int = 6, n: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activation with unequal channels and a mean, and a context that depends on it."""
    spread = torch.linspace(2, 0.3, d, dtype=torch.float64)[:, None, None]
    h = drawn(n, d, 4, 4, seed=seed) * spread + 1
    return h, 0.3 * h.roll(1, dims=1) + drawn(n, d, 4, 4, seed=seed + 1)


def basis_of(h: Tensor, c: Tensor, k: int, kind: str = "prcaposdef"):  # type: ignore[no-untyped-def]
    sums = MomentAccumulator(h.shape[1])
    sums.update(locations(h), locations(c))
    return make_basis(sums.result(), kind, k)


def fitted(student: Tensor, target: Tensor) -> Frame:
    fit = FrameFit(student.shape[1])
    for chunk in zip(student.split(4), target.split(4)):
        fit.update(*chunk)
    return fit.result()


def test_projection_equals_the_basis_and_the_plain_sums() -> None:
    h, c = layer()
    basis = basis_of(h, c, 3)
    projection = Frame.of_basis(basis).project(h, c)
    torch.testing.assert_close(projection.activation, basis.project(h))
    one = sum(
        float(basis.vectors[:, 1] @ (h[2, :, i, j] - basis.mean) * (basis.vectors[:, 1] @ c[2, :, i, j]))
        for i in range(4)
        for j in range(4)
    )
    assert relevance_by_direction(projection)[2, 1] == pytest.approx(one, rel=1e-10)


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["prcaposdef", "pca", "random", "identity"]))
@settings(deadline=None, max_examples=15)
def test_all_directions_carry_all_relevance(seed: int, kind: str) -> None:
    h, c = layer(seed=seed)
    frame = Frame.of_basis(basis_of(h, c, 6, kind))
    for one, a in ((frame, h - frame.mean[:, None, None]), (frame.uncentred, h)):
        parts = relevance_by_direction(one.project(h, c))
        np.testing.assert_allclose(parts.sum(axis=1), (a * c).sum(dim=(1, 2, 3)).numpy(), rtol=1e-9, atol=1e-9)


def test_a_random_subspace_carries_k_of_d_on_average() -> None:
    h, c = layer()
    shares = []
    for seed in range(300):
        turn = random_rotation(6, seed)
        parts = relevance_by_direction(Frame(turn, torch.zeros(6)).project(h, c)).sum(axis=0)
        shares.append(parts[:2].sum() / parts.sum())
    assert abs(np.mean(shares) - 2 / 6) < 3 * np.std(shares, ddof=1) / np.sqrt(300)
    assert np.std(shares) > 0.01


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=15)
def test_the_fit_recovers_a_known_rotation(seed: int) -> None:
    target = layer(5, seed=seed)[0]
    target = target - target.mean(dim=(0, 2, 3), keepdim=True)
    turn = random_rotation(5, seed)
    student = conv2d(target, turn[:, :, None, None]) * 3
    frame = fitted(student + 7, target)
    torch.testing.assert_close(frame.directions, turn, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(frame.mean, torch.full((5,), 7.0, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    error, energy = residuals(target, frame.project(student + 7, student).activation)
    assert error.sum() < 1e-12 * energy.sum()


def test_no_other_rotation_is_nearer() -> None:
    target, student = layer(4)[0], layer(4, seed=5)[0] + 0.5 * layer(4)[0].roll(1, dims=1)
    target = target - target.mean(dim=(0, 2, 3), keepdim=True)
    frame = fitted(student, target)
    zero = torch.zeros_like(student)

    def overlap(one: Frame) -> float:
        return float((one.project(student, zero).activation * target).sum())

    others = [
        overlap(frame.rotated(torch.linalg.matrix_exp(0.05 * (m - m.T))))
        for m in (drawn(4, 4, seed=i) for i in range(30))
    ]
    assert max(others) < overlap(frame)


def test_at_zero_layer_loss_all_likeness_is_1() -> None:
    h, c = layer()
    basis = basis_of(h, c, 3)
    teacher = Frame.of_basis(basis).project(h, c)
    turn = random_rotation(3, 4)[:, :, None, None]
    student, context = conv2d(teacher.activation, turn) + 2, conv2d(teacher.context, turn)
    own = fitted(student, teacher.activation).project(student, context)
    np.testing.assert_allclose(cosines(teacher.relevance, own.relevance), 1, rtol=1e-9)
    np.testing.assert_allclose(cosines(teacher.activation, own.activation), 1, rtol=1e-9)
    np.testing.assert_allclose(direction_cosines(teacher.relevance, own.relevance), 1, rtol=1e-9)
    error, energy = residuals(teacher.activation, own.activation)
    assert ratio_interval(error[None], energy[None]).mean == pytest.approx(0, abs=1e-12)
    assert linear_cka(locations(teacher.activation), locations(student)) == pytest.approx(1, rel=1e-9)
    assert distance_correlation(teacher.activation, student, corrected=True) == pytest.approx(1, rel=1e-9)
    by_chance = fitted(student, teacher.activation).rotated(random_rotation(3, 1)).project(student, context)
    assert cosines(teacher.relevance, by_chance.relevance).mean() < 0.9


def test_rotating_a_frame_rotates_coordinates_and_keeps_the_whole() -> None:
    h, c = layer()
    frame = fitted(h, layer(seed=3)[0])
    turn = random_rotation(6, 2)
    before, after = frame.project(h, c), frame.rotated(turn).project(h, c)
    torch.testing.assert_close(after.activation, conv2d(before.activation, turn[:, :, None, None]))
    torch.testing.assert_close(after.relevance.sum(dim=1), before.relevance.sum(dim=1))
    assert frame.first(2).project(h, c).activation.shape == (9, 2, 4, 4)
    assert frame.first(None).directions.shape == (6, 6)


def test_residuals_are_those_of_the_best_scale() -> None:
    t, e = layer()[0], layer(seed=2)[0]
    scales = np.linspace(-2, 2, 4001)
    least = min(float((t - s * e).square().sum()) for s in scales)
    error, energy = residuals(t, e)
    assert error.sum() == pytest.approx(least, rel=1e-6)
    assert energy.sum() == pytest.approx(float(t.square().sum()))
    assert residuals(t, torch.zeros_like(t))[0].sum() == energy.sum()


def test_larger_maps_are_averaged_down() -> None:
    a, b = drawn(5, 3, 8, 8), drawn(5, 3, 4, 4, seed=1)
    assert torch.equal(at_one_size(a, b)[0], avg_pool2d(a, 2))
    np.testing.assert_allclose(cosines(avg_pool2d(a, 2), b), cosines(a, b))
    np.testing.assert_allclose(cosines(b, a), cosines(a, b))
    flat = avg_pool2d(a, 2).flatten(1), b.flatten(1)
    np.testing.assert_allclose(cosines(a, b), torch.cosine_similarity(*flat).numpy(), rtol=1e-10)
    np.testing.assert_allclose(direction_cosines(a, b)[:, 1], cosines(a[:, 1:2], b[:, 1:2]))
    assert np.isnan(cosines(a, torch.zeros_like(b))).all()


def test_ratio_of_sums_with_its_interval() -> None:
    generator = np.random.default_rng(0)
    b = generator.uniform(1, 3, (2, 200))
    a = 0.4 * b + generator.normal(0, 0.3, b.shape)
    found = ratio_interval(a, b)
    assert found.mean == pytest.approx(a.sum() / b.sum())
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.1
    assert (found.n, found) == (400, ratio_interval(a, b))
    assert np.isnan(ratio_interval(a, 0 * b).mean)
    assert np.isnan(ratio_interval(a[:, :1], b[:, :1]).low)
    exact = ratio_interval(0.25 * b, b)
    assert (exact.low, exact.high) == pytest.approx((0.25, 0.25))


def test_random_rotations() -> None:
    turn = random_rotation(7, 3)
    torch.testing.assert_close(turn @ turn.T, torch.eye(7, dtype=torch.float64))
    assert torch.equal(turn, random_rotation(7, 3))
    assert not torch.allclose(turn, random_rotation(7, 4))


def test_bad_input() -> None:
    h, c = layer()
    frame = fitted(h, h)
    with pytest.raises(DataError, match="do not fit directions of 6 channels"):
        frame.project(h[:, :4], c[:, :4])
    with pytest.raises(DataError, match="do not fit directions"):
        frame.project(h, c[:, :, :2])
    with pytest.raises(DataError, match="as many directions"):
        FrameFit(6).update(h, h[:, :5])
    with pytest.raises(DataError, match="no images"):
        FrameFit(6).result()
    with pytest.raises(DataError, match="its layer is dead"):
        fitted(torch.ones_like(h), h)
    with pytest.raises(DataError, match=r"terms \(S, N\), seeds by images.* got shape \(4,\)"):
        ratio_interval(np.ones(4), np.ones(4))
    with pytest.raises(DataError, match="got infinite values"):
        ratio_interval(np.full((1, 4), np.inf), np.ones((1, 4)))
    with pytest.raises(ConfigError, match="at least 1 dimension, got 0"):
        random_rotation(0)


def test_images_for_and_against_their_class_do_not_cancel_out() -> None:
    parts = np.array([[3.0, 1.0, 0.0], [-3.0, -1.0, 0.0], [0.2, 0.0, -0.1]])
    half, whole = relevance_shares(parts, [1, 3])
    assert half.mean == pytest.approx((3 + 3 + 0.2) / 8.1)
    assert (whole.mean, whole.low, whole.high) == (1, 1, 1)
    assert half.low <= half.mean <= half.high

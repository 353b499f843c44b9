from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.rkd import RelationLoss, rkd
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
Point = list[float]


@pytest.mark.parametrize(("weights", "key"), [((25, 50), "rkd_pooled"), ((1, 0), "rkd_distance_pooled")])
def test_the_loss_is_the_public_codes(
    public: dict[str, Tensor], expected, weights: tuple[float, float], key: str
) -> None:  # type: ignore[no-untyped-def]
    loss = RelationLoss(*weights)
    value = loss(public["student_feats"], loss.target(public["teacher_feats"])).mean().item()
    assert value == pytest.approx(expected("rivals")[key], rel=1e-5)


def slow_angle(at: Point, a: Point, b: Point) -> float:
    u, v = ([p - q for p, q in zip(point, at)] for point in (a, b))
    lengths = math.hypot(*u) * math.hypot(*v)
    return sum(p * q for p, q in zip(u, v)) / lengths if lengths else 0.0


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_the_loss_is_the_definition(normal: Normal) -> None:
    sets = [(4 * normal(5, 3)).tolist(), normal(5, 6, seed=1).tolist()]
    distances, angles = [], []
    for points in sets:
        d = [[math.dist(a, b) for b in points] for a in points]
        mean = sum(map(sum, d)) / 20
        distances.append([[x / mean for x in row] for row in d])
        angles.append([[[slow_angle(a, b, c) for c in points] for b in points] for a in points])
    have = rkd(*(torch.tensor(points).double() for points in sets), 25, 50)
    for i in range(5):
        distance = sum(huber(distances[0][i][j] - distances[1][i][j]) for j in range(5)) / 5
        angle = sum(huber(angles[0][i][j][k] - angles[1][i][j][k]) for j in range(5) for k in range(5)) / 25
        assert have[i].item() == pytest.approx(25 * distance + 50 * angle, rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), factor=st.floats(1e-2, 1e2), order=st.permutations(range(5)))
def test_only_how_the_samples_lie_to_each_other_counts(  # type: ignore[no-untyped-def]
    normal: Normal, orthogonal, seed: int, factor: float, order: list[int]
) -> None:
    student, teacher = normal(5, 4, seed=seed), normal(5, 7, seed=seed + 1)
    value = rkd(student, teacher)
    assert (value > 0).all()
    moved = factor * student @ orthogonal(4, seed) + normal(4, seed=seed + 2)
    assert torch.allclose(rkd(moved, teacher), value, rtol=1e-8)
    assert torch.allclose(rkd(student[order], teacher[order]), value[order], rtol=1e-8)
    assert rkd(factor * teacher + 1, teacher).max() < 1e-20


def test_gradients(normal: Normal) -> None:
    teacher = normal(4, 6, seed=1)
    assert torch.autograd.gradcheck(lambda s: rkd(s, teacher), normal(4, 5).requires_grad_())


@pytest.mark.parametrize("equal", [2, 4])
def test_samples_that_are_equal_leave_loss_and_gradient_finite(normal: Normal, equal: int) -> None:
    student = normal(4, 5).float()
    student[:equal] = student[0]
    student.requires_grad_()
    value = rkd(student, normal(4, 6, seed=1).float())
    value.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(torch.cat([value.detach(), student.grad.flatten()])).all()


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match="RKD needs the same samples of both, got 4 of the student, 5 of the teacher"):
        rkd(normal(4, 3), normal(5, 3))

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.distillation.losses.vkd import VkDLoss, vkd
from xaibench.errors import ConfigError, ModelError

Normal = Callable[..., Tensor]


def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected) -> None:  # type: ignore[no-untyped-def]
    loss = VkDLoss((24, 5, 5), (8, 5, 5))
    with torch.no_grad():
        loss.projection.weight = public["vkd_projection"]  # sets the orthogonal matrix behind the parametrisation
    assert torch.allclose(loss.projection.weight, public["vkd_projection"], atol=1e-6)
    value = loss(public["student_feats"], loss.target(public["teacher_feats"]))
    assert value.mean().item() == pytest.approx(expected("subdistill")["vkd"], rel=1e-5)


def test_the_loss_is_the_definition_and_torchs(normal: Normal) -> None:
    student, teacher = 2 * normal(3, 4, 2, 2), 3 * normal(3, 6, 5, 3, seed=1) + 1
    loss = VkDLoss((6, 5, 3), (4, 2, 2)).double()
    target, weight = loss.target(teacher), loss.projection.weight.tolist()
    assert target.shape == (3, 6)  # all that a cache has to hold
    have = loss(student, target)
    for b in range(3):
        pooled = [sum(c.flatten().tolist()) / 4 for c in student[b]]
        aim = [sum(c.flatten().tolist()) / 15 for c in teacher[b]]
        mean = sum(aim) / 6
        spread = math.sqrt(sum((a - mean) ** 2 for a in aim) / 6 + 1e-5)
        total = 0.0
        for row, a in zip(weight, aim):
            error = abs(sum(w * h for w, h in zip(row, pooled)) - (a - mean) / spread)
            total += error**2 / 2 if error < 1 else error - 0.5
        assert have[b].item() == pytest.approx(total / 6, rel=1e-10)
    normalised = nn.LayerNorm(6, elementwise_affine=False)(teacher.mean((2, 3)))
    projected = student.mean((2, 3)) @ loss.projection.weight.T
    assert have.mean().item() == pytest.approx(F.smooth_l1_loss(projected, normalised).item(), rel=1e-10)


def test_a_student_that_embeds_as_the_normalised_teacher_has_no_loss(normal: Normal) -> None:
    loss = VkDLoss((6, 1, 1), (6, 1, 1)).double()
    target = loss.target(normal(3, 6, 1, 1))
    student = (target @ loss.projection.weight)[:, :, None, None]
    assert loss(student, target).max() < 1e-12


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(
        ModelError, match="at most as many student channels as teacher channels, got 8 for 6: pair other"
    ):
        VkDLoss((6, 2, 2), (8, 2, 2))
    with pytest.raises(ConfigError, match=r"VkD: student \(3, 6\) and teacher \(2, 6\) must agree"):
        vkd(normal(3, 6), normal(2, 6))

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.vid import VIDLoss, vid
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("stem", "key"), [("subdistill", "vid(init variance 5)"), ("repdistiller", "vid_init_variance_5")]
)
def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected, stem: str, key: str) -> None:  # type: ignore[no-untyped-def]
    loss = VIDLoss((24, 5, 5), (8, 5, 5))
    convolutions = [m for m in loss.regressor if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 3
    with torch.no_grad():
        for i, convolution in enumerate(convolutions):
            convolution.weight.copy_(public[f"vid_w{i}"][:, :, None, None])
            assert convolution.bias is None
    value = loss(public["student_feats"], loss.target(public["teacher_feats"]))
    assert value.mean().item() == pytest.approx(expected(stem)[key], rel=1e-5)


def test_the_loss_is_the_definition_and_torchs(normal: Normal) -> None:
    mean, teacher, scale = normal(2, 3, 2, 4), normal(2, 3, 2, 4, seed=1), normal(3, seed=2)
    have = vid(mean, teacher, scale)
    variances = [math.log(1 + math.exp(s)) + 1e-5 for s in scale.tolist()]
    for b in range(2):
        total = 0.0
        for c, v in enumerate(variances):
            for i in range(2):
                for j in range(4):
                    total += 0.5 * ((mean[b, c, i, j].item() - teacher[b, c, i, j].item()) ** 2 / v + math.log(v))
        assert have[b].item() == pytest.approx(total / 24, rel=1e-10)
    spread = torch.tensor(variances, dtype=torch.float64)[None, :, None, None].expand_as(mean)
    assert have.mean().item() == pytest.approx(F.gaussian_nll_loss(mean, teacher, spread).item(), rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_the_best_variance_is_the_mean_squared_error_of_its_channel(normal: Normal, seed: int) -> None:
    mean, teacher = normal(6, 3, 4, 4, seed=seed), 2 * normal(6, 3, 4, 4, seed=seed + 1)
    error = (mean - teacher).square().mean((0, 2, 3))
    scale = torch.log(torch.expm1(error - 1e-5)).requires_grad_()
    vid(mean, teacher, scale).mean().backward()
    assert scale.grad is not None
    assert scale.grad.abs().max() < 1e-10


@pytest.mark.parametrize("learned", [True, False])
def test_the_variance_starts_at_five_and_is_learned_or_not(normal: Normal, learned: bool) -> None:
    loss = VIDLoss((3, 4, 4), (2, 4, 4), learned_scale=learned)
    assert torch.allclose(F.softplus(loss.scale) + 1e-5, torch.full((3,), 5.0), rtol=1e-6)
    loss(normal(2, 2, 4, 4).float(), normal(2, 3, 4, 4).float()).mean().backward()
    assert (loss.scale.grad is not None) is learned
    assert all(p.grad is not None for p in loss.regressor.parameters())


def test_gradients(normal: Normal) -> None:
    inputs = normal(2, 3, 2, 2).requires_grad_(), normal(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: vid(m, normal(2, 3, 2, 2, seed=1), s), inputs)


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match=r"VID: student \(2, 3, 2, 2\) and teacher \(2, 3, 4, 4\) must agree"):
        vid(normal(2, 3, 2, 2), normal(2, 3, 4, 4), normal(3))

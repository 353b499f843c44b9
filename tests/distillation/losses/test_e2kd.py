from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.distillation.losses.e2kd import e2kd, grad_cam
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]


def classifier(seed: int = 0, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(2, width, 3), nn.Tanh(), nn.Conv2d(width, width, 2))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)).double()


@pytest.mark.parametrize("target", range(4))
def test_grad_cam_is_captums(normal: Normal, target: int) -> None:
    model, x = classifier(), normal(3, 2, 8, 8)
    captum = LayerGradCam(model, model[0]).attribute(x, target=target, relu_attributions=True)
    have = grad_cam(model[0](x), model[3].weight)[:, target]  # type: ignore[arg-type]
    assert have.shape == (3, 5, 5)
    assert torch.allclose(have, captum[:, 0], rtol=1e-10)
    assert have.max() > 0


def cam_by_autograd(model: nn.Sequential, x: Tensor, target: Tensor) -> Tensor:
    maps = model[0](x)
    logits = model[1:](maps).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(logits, maps, create_graph=True)
    return F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1))


def test_training_on_it_is_training_through_the_gradient(normal: Normal) -> None:
    """Derivatives with respect to the student's weights are those of the explanation made by a backward pass."""
    student, teacher, x = classifier(1), classifier(2), normal(3, 2, 8, 8)
    top = teacher(x).argmax(1)
    aim = cam_by_autograd(teacher, x, top).detach()
    rows = torch.arange(3)
    weights = [*student[0].parameters(), student[3].weight]
    quick = e2kd(grad_cam(student[0](x), student[3].weight)[rows, top], aim)  # type: ignore[arg-type]
    through = 1 - F.cosine_similarity(cam_by_autograd(student, x, top).flatten(1), aim.flatten(1))
    assert torch.allclose(quick, through, rtol=1e-10)
    for a, b in zip(*(torch.autograd.grad(loss.sum(), weights) for loss in (quick, through))):  # type: ignore[arg-type]
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-14)
        assert a.abs().max() > 0


def test_the_loss_is_the_definition(normal: Normal) -> None:
    student, teacher = normal(3, 4, 4).abs(), normal(3, 2, 2, seed=1).abs()
    have = e2kd(student, teacher)
    for b in range(3):
        s = [student[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean().item() for i in (0, 1) for j in (0, 1)]
        t = teacher[b].flatten().tolist()
        lengths = math.sqrt(sum(v * v for v in s) * sum(v * v for v in t))
        assert have[b].item() == pytest.approx(1 - sum(u * v for u, v in zip(s, t)) / lengths, rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), factor=st.floats(1e-3, 1e3), order=st.permutations(range(3)))
def test_only_the_shape_of_an_explanation_counts(normal: Normal, seed: int, factor: float, order: list[int]) -> None:
    student, teacher = normal(3, 4, 4, seed=seed).relu(), normal(3, 4, 4, seed=seed + 1).relu()
    loss = e2kd(student, teacher)
    assert torch.allclose(e2kd(factor * student, teacher), loss, atol=1e-12)
    assert torch.allclose(e2kd(student[order], teacher[order]), loss[order], rtol=1e-12)
    assert torch.allclose(e2kd(teacher, student), loss, atol=1e-12)
    assert e2kd(factor * teacher, teacher).abs().max() < 1e-12
    assert ((loss >= 0) & (loss <= 1)).all()


def test_explanations_of_other_places_or_of_nothing_have_loss_one() -> None:
    here, there = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    here[0, 0, 0], there[0, 1, 1] = 3.0, 2.0
    assert e2kd(here, there).item() == 1
    nothing = torch.zeros(1, 2, 2, requires_grad=True)
    loss = e2kd(nothing, there)
    loss.sum().backward()
    assert loss.item() == 1
    assert nothing.grad is not None
    assert torch.isfinite(nothing.grad).all()
    assert e2kd(here, torch.zeros(1, 2, 2)).item() == 1


def test_gradients(normal: Normal) -> None:
    teacher = normal(2, 3, 3, seed=1).abs()
    assert torch.autograd.gradcheck(lambda s: e2kd(s, teacher), (normal(2, 3, 3).abs() + 0.1).requires_grad_())


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match="maps have 5 channels but the linear layer takes 6"):
        grad_cam(normal(2, 5, 3, 3), normal(4, 6))
    with pytest.raises(ConfigError, match="same samples of both, got 1 of the student, 3 of the teacher"):
        e2kd(normal(1, 3, 3), normal(3, 3, 3))

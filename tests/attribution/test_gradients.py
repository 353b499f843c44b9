from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.targets import Target


def test_input_x_gradient_is_captums(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain_model(network, x, target, InputXGradient(), preprocessing).relevance
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.select(network(point)).sum(), point)
    torch.testing.assert_close(ours, x * gradient, rtol=1e-4, atol=1e-6)
    alone = explain_model(network, x[2:3], target.take([2]), InputXGradient(), preprocessing).relevance
    torch.testing.assert_close(alone, ours[2:3], rtol=0, atol=1e-6 * float(ours.abs().max()))


def test_input_x_gradient_is_exact_on_a_linear_model(linear, slope: Tensor, x, target, preprocessing) -> None:
    ours = explain_model(linear, x, target, InputXGradient(), preprocessing)
    torch.testing.assert_close(ours.relevance, slope * x, rtol=1e-5, atol=1e-5)
    assert ours.references == {}

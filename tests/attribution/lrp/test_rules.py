from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zennit.rules
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.core import BasicHook

from xaibench.attribution.lrp.rules import ByZennit, Epsilon, Gamma, Layer, Rule


def relevance_by_zennit(hook: BasicHook, layer: nn.Module, value: Tensor, upper: Tensor) -> Tensor:
    x = value.clone().requires_grad_()
    hook = hook.copy()
    handles = hook.register(layer)
    (relevance,) = torch.autograd.grad(layer(x), x, grad_outputs=upper)
    handles.remove()
    return relevance


def relevance_by_rule(rule: Rule, layer: nn.Module, value: Tensor, upper: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        call = Layer(F.linear, lambda u, x, w: u @ w, layer.weight, layer.bias)
    else:
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        call = Layer(
            lambda x, w, b: F.conv2d(x, w, b, *options),
            lambda u, x, w: nn.grad.conv2d_input(x.shape, w, u, *options),
            layer.weight,
            layer.bias,
        )
    with torch.no_grad():
        return rule(call, value, layer(value), upper)


LAYERS: dict[str, Callable[[bool], nn.Module]] = {
    "plain": lambda bias: nn.Conv2d(4, 6, 3, padding=1, bias=bias),
    "strided": lambda bias: nn.Conv2d(4, 6, 3, stride=2, dilation=2, bias=bias),
    "depthwise": lambda bias: nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=bias),
    "linear": lambda bias: nn.Linear(7, 5, bias=bias),
}


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(sorted(LAYERS)),
    bias=st.booleans(),
    inputs=st.sampled_from(["any", "nonnegative"]),
    outputs=st.sampled_from(["any", "where positive"]),
    gamma=st.sampled_from([0.0, 0.25, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_the_gamma_rule_equals_zennits(kind: str, bias: bool, inputs: str, outputs: str, gamma: float, seed) -> None:
    torch.manual_seed(seed)
    layer = LAYERS[kind](bias).double().requires_grad_(False)
    value = torch.randn(3, 7 if kind == "linear" else 4, *([] if kind == "linear" else [7, 7]), dtype=torch.float64)
    value = value.relu() if inputs == "nonnegative" else value
    z = layer(value)
    upper = torch.randn_like(z) * z * ((z > 0) if outputs == "where positive" else 1)
    wanted = relevance_by_zennit(zennit.rules.Gamma(gamma), layer, value, upper)
    got = relevance_by_rule(Gamma(gamma, 1e-6), layer, value, upper)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))
    assert bool(wanted.any())


def test_outputs_that_are_exactly_zero_share_nothing_out() -> None:
    layer = nn.Conv2d(2, 1, 1, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
    value = torch.tensor([[[[0.0, 2.0, 3.0]], [[0.0, 2.0, 0.0]]]])
    upper = torch.ones(1, 1, 1, 3)
    got = relevance_by_rule(Gamma(1.0, 1e-6), layer, value, upper)
    torch.testing.assert_close(got, torch.tensor([[[[0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]]]))
    assert torch.equal(got, relevance_by_zennit(zennit.rules.Gamma(1.0), layer, value, upper))


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_the_epsilon_rule_equals_zennits(kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind](True).double().requires_grad_(False)
    value = torch.randn(3, 7 if kind == "linear" else 4, *([] if kind == "linear" else [7, 7]), dtype=torch.float64)
    upper = torch.randn_like(layer(value))
    wanted = relevance_by_zennit(zennit.rules.Epsilon(0.01), layer, value, upper)
    torch.testing.assert_close(relevance_by_rule(Epsilon(0.01), layer, value, upper), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "hook", [zennit.rules.ZPlus(), zennit.rules.AlphaBeta(), zennit.rules.Flat(), zennit.rules.ZBox(-1.0, 2.0)]
)
def test_rules_of_zennits_come_unchanged(hook: BasicHook) -> None:
    torch.manual_seed(0)
    layer = LAYERS["strided"](True).requires_grad_(False)
    value = torch.rand(3, 4, 7, 7) * 3 - 1
    upper = torch.randn_like(layer(value))
    assert torch.equal(
        relevance_by_rule(ByZennit(hook), layer, value, upper), relevance_by_zennit(hook, layer, value, upper)
    )

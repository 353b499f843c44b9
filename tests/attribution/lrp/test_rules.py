from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import zennit.rules
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.core import BasicHook

from xaibench.attribution.lrp.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, Layer, Rule, Shares


def relevance_by_zennit(hook: BasicHook, layer: nn.Module, value: Tensor, upper: Tensor) -> Tensor:
    x = value.clone().requires_grad_()
    hook = hook.copy()
    handles = hook.register(layer)
    (relevance,) = torch.autograd.grad(layer(x), x, grad_outputs=upper)
    handles.remove()
    return relevance


def shares_by_rule(rule: Rule, layer: nn.Module, value: Tensor, upper: Tensor) -> Shares:
    if isinstance(layer, nn.Linear):
        call = Layer("linear", F.linear, lambda u, x, w: u @ w, layer.weight, layer.bias)
    else:
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        call = Layer(
            "convolution",
            lambda x, w, b: F.conv2d(x, w, b, *options),
            lambda u, x, w: nn.grad.conv2d_input(x.shape, w, u, *options),
            layer.weight,
            layer.bias,
        )
    with torch.no_grad():
        return rule(call, value, layer(value), upper)


def relevance_by_rule(rule: Rule, layer: nn.Module, value: Tensor, upper: Tensor) -> Tensor:
    return shares_by_rule(rule, layer, value, upper).input


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


RULES: dict[str, tuple[Rule, BasicHook]] = {
    "epsilon": (Epsilon(0.01), zennit.rules.Epsilon(0.01)),
    "gamma": (Gamma(0.5, 0.01), zennit.rules.Gamma(0.5, 0.01)),
    "z plus": (AlphaBeta(1, 0, 0.01), zennit.rules.ZPlus(0.01)),
    "alpha beta": (AlphaBeta(2, 1, 0.01), zennit.rules.AlphaBeta(2, 1, 0.01)),
    "box": (Box(torch.tensor(-3.0), torch.tensor(4.0), 0.01), zennit.rules.ZBox(-3.0, 4.0, 0.01)),
    "flat": (Flat(0.01), zennit.rules.Flat(0.01)),
}


def call(kind: str, inputs: str = "any", bias: bool = True) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer, its input within the bounds of the box, and relevance of its output: float64."""
    torch.manual_seed(0)
    layer = LAYERS[kind](bias).double().requires_grad_(False)
    value = torch.randn(3, 7 if kind == "linear" else 4, *([] if kind == "linear" else [7, 7]), dtype=torch.float64)
    value = value.clamp(-3 if inputs == "any" else 0, 4)
    return layer, value, torch.randn_like(layer(value))


@pytest.mark.parametrize("inputs", ["any", "nonnegative"])
@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("name", RULES)
def test_rules_equal_zennits(name: str, kind: str, inputs: str) -> None:
    rule, hook = RULES[name]
    layer, value, upper = call(kind, inputs)
    wanted = relevance_by_zennit(hook, layer, value, upper)
    got = relevance_by_rule(rule, layer, value, upper)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize("inputs", ["any", "nonnegative"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("name", RULES)
def test_inputs_and_what_is_absorbed_add_up_to_the_relevance_of_the_output(name, kind, bias, inputs) -> None:
    layer, value, upper = call(kind, inputs, bias)
    shares = shares_by_rule(RULES[name][0], layer, value, upper)
    found = shares.input.flatten(1).sum(1) + sum(shares.absorbed.values())
    torch.testing.assert_close(found, upper.flatten(1).sum(1), rtol=1e-10, atol=1e-10)
    assert bool(shares.absorbed[layer_kind(layer)].any()) == (bias and name not in ("box", "flat"))


def layer_kind(layer: nn.Module) -> str:
    return "linear" if isinstance(layer, nn.Linear) else "convolution"


@pytest.mark.parametrize("kind", ["plain", "strided", "linear"])
@pytest.mark.parametrize("name", ["epsilon", "gamma", "z plus", "alpha beta", "box"])
def test_a_bias_absorbs_what_an_input_of_one_would_get(name: str, kind: str) -> None:
    """The same layer without bias, with one more input that is 1 everywhere: a channel read by the kernels' middle."""
    layer, value, upper = call(kind)
    twin = copy.deepcopy(layer)
    more = torch.zeros_like(layer.weight[:, :1])
    more[(slice(None), 0, *(size // 2 for size in more.shape[2:]))] = layer.bias
    twin.weight, twin.bias = nn.Parameter(torch.cat([layer.weight, more], 1), requires_grad=False), None
    rule = RULES[name][0]
    if isinstance(rule, Box):  # a constant is its own lower and upper bound
        own = [1, -1, *[1] * (value.ndim - 2)]
        low, high = (torch.tensor([bound] * value.shape[1] + [1.0]).double().view(own) for bound in (-3.0, 4.0))
        rule = Box(low, high, 0.01)
    wanted = shares_by_rule(rule, twin, torch.cat([value, torch.ones_like(value[:, :1])], 1), upper)
    got = shares_by_rule(RULES[name][0], layer, value, upper)
    torch.testing.assert_close(got.input, wanted.input[:, :-1], rtol=1e-10, atol=1e-10)
    own = wanted.input[:, -1:].flatten(1).sum(1)
    torch.testing.assert_close(got.absorbed[layer_kind(layer)], own, rtol=1e-10, atol=1e-10)


def test_the_z_plus_rule_tells_what_outputs_without_positive_contributions_lose() -> None:
    layer = nn.Linear(2, 2, bias=False).double().requires_grad_(False)
    layer.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    value, upper = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[3.0, 5.0]]).double()
    shares = shares_by_rule(AlphaBeta(1, 0, 1e-12), layer, value, upper)
    torch.testing.assert_close(shares.input, torch.tensor([[1.0, 2.0]]).double())
    torch.testing.assert_close(shares.absorbed["missing_sign"], torch.tensor([5.0]).double())
    shares = shares_by_rule(AlphaBeta(2, 1, 1e-12), layer, value, upper)
    torch.testing.assert_close(shares.absorbed["missing_sign"], torch.tensor([2 * 5.0 - 3.0]).double())

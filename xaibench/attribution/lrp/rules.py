"""LRP rules for single calls of linear and convolutional layers, and the autograd functions that apply them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from zennit.core import BasicHook, stabilize

__all__ = ["ByZennit", "Enter", "Epsilon", "Gamma", "Layer", "Leave", "Pass", "Rule", "Ruled", "is_gate", "varies"]

# Behind these a gate is still a gate.
_MOVES = frozenset({"View", "UnsafeView", "Expand", "Squeeze", "Unsqueeze", "Transpose", "Permute", "Clone", "Alias"})


class Layer(nn.Module):
    """One call z = f(x; W, b) of a linear or convolutional layer, as a module, which zennit's rules expect.

    function  (x, W, b) -> z
    adjoint   (u, x, W) -> gradient of <u, f(x; W, 0)> with respect to x
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        adjoint: Callable[[Tensor, Tensor, Tensor], Tensor],
        weight: Tensor,
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        self.function = function
        self.adjoint = adjoint
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """f(x; W, b)."""
        return self.function(x, self.weight, self.bias)


class Rule(Protocol):
    """Relevance of a layer's input."""

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Tensor:
        """Relevance, shaped as `x`, of the call z = layer(x), whose output has the relevance `upper`."""


@dataclass(frozen=True)
class Epsilon:
    """R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign(z_j)): zennit's Epsilon, with the output that is known already.

    Source: Bach et al. 2015.
    """

    epsilon: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Tensor:
        return x * layer.adjoint(upper / stabilize(z, self.epsilon), x, layer.weight)


@dataclass(frozen=True)
class Gamma:
    """zennit's generalised gamma rule, with three convolutions, at most four, in place of twelve.

    With x = x+ + x- and W = W+ + W- (positive and negative parts) an output z_j > 0 shares its relevance out in
    proportion to x+ (W + gamma W+) + x- (W + gamma W-), one z_j < 0 to x+ (W + gamma W-) + x- (W + gamma W+).
    As a = |x| |W| + |b| has x+ W+ + x- W- + b+ = (z + a) / 2, both sums have the absolute value
    (1 + gamma/2) |z| + gamma/2 a = d, and with t = R / (d + stabiliser), s = t sign(z)

        R_i = (1 + gamma/2) x_i (W^T s)_i + gamma/2 |x_i| (|W|^T t)_i

    which is x_i ((W + gamma W+)^T t)_i where x >= 0 and no z_j < 0 has relevance, as between two ReLUs.

    Source: Montavon et al. 2019; Andeol et al. 2021 for inputs of both signs.
    """

    gamma: float
    stabilizer: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Tensor:
        weight, half = layer.weight, self.gamma / 2
        size = x.abs()
        total = layer.function(size, weight.abs(), None if layer.bias is None else layer.bias.abs())
        share = upper / torch.add(total.mul_(half), z.abs(), alpha=1 + half).add_(self.stabilizer)
        share = share.masked_fill_(z == 0, 0.0)
        signed = share * z.sign()
        if torch.equal(share, signed) and torch.equal(size, x):
            return x * layer.adjoint(share, x, weight + self.gamma * weight.clamp(min=0))
        plain = x * layer.adjoint(signed, x, weight)
        return (1 + half) * plain + half * size * layer.adjoint(share, x, weight.abs())


@dataclass(frozen=True)
class ByZennit:
    """A rule of zennit's as it is."""

    hook: BasicHook

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Tensor:
        hook = self.hook.copy()
        hook.stored_tensors["input"] = (x,)
        relevance: Tensor = hook.backward(layer, (x,), (upper,))[0]
        return relevance


class Enter(torch.autograd.Function):
    """The identity, whose backward pass multiplies the gradient by x.

    y = Leave(f(Enter(x))) has the epsilon rule: its backward pass gives R_i = x_i df/dx_i R / (y + stabiliser).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * gradient


class Leave(torch.autograd.Function):
    """The identity, whose backward pass divides relevance by y + stabiliser; see `Enter`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, stabilizer: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.stabilizer = stabilizer
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return upper / stabilize(y, ctx.stabilizer), None


class Pass(torch.autograd.Function):
    """An elementwise function whose backward pass returns the relevance unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], gate: bool) -> Tensor:
        ctx.gate = gate
        return function(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None, None]:
        return upper, None, None


class Ruled(torch.autograd.Function):
    """A layer whose backward pass is an LRP rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, rule: Rule) -> Tensor:
        z = layer(x)
        ctx.save_for_backward(x, z)
        ctx.layer, ctx.rule = layer, rule
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None, None]:
        x, z = ctx.saved_tensors
        return ctx.rule(ctx.layer, x, z, upper), None, None


def varies(value: Any) -> bool:
    """True for a tensor that depends on the images."""
    return isinstance(value, Tensor) and value.requires_grad


def is_gate(value: Tensor) -> bool:
    """True for the output of a (hard) sigmoid or softmax, also after reshaping."""
    node = value.grad_fn
    while node is not None:
        name = type(node).__name__.rpartition("Backward")[0]
        if getattr(node, "gate", False) or name == "Softmax":
            return True
        node = node.next_functions[0][0] if name in _MOVES else None
    return False

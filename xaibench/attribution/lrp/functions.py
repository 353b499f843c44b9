"""Autograd functions whose backward passes hand on relevance, and what they enter into the books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xaibench.attribution.lrp.books import Books, total
from xaibench.attribution.lrp.rules import Layer, Rule, signed

__all__ = ["Absorb", "Enter", "Leave", "Pass", "Ruled", "TaylorSoftmax", "is_gate", "varies"]

# Behind these a gate is still a gate.
_MOVES = frozenset({"View", "UnsafeView", "Expand", "Squeeze", "Unsqueeze", "Transpose", "Permute", "Clone", "Alias"})


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
    """The identity, whose backward pass divides relevance by y + stabiliser; see `Enter`.

    constant  what y has of constants, of a shape that broadcasts to y's; their share is entered under `kind`
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, stabilizer: float, constant: Tensor | None, kind: str, books: Books | None
    ) -> Tensor:
        ctx.save_for_backward(y, constant)
        ctx.stabilizer, ctx.kind, ctx.books = stabilizer, kind, books
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None, None, None, None]:
        y, constant = ctx.saved_tensors
        added = signed(ctx.stabilizer, y)
        share = upper / (y + added)
        if ctx.books is not None:
            ctx.books.enter({"stabiliser": total(added * share)})
            if constant is not None:
                ctx.books.enter({ctx.kind: total(constant * share)})
        return share, None, None, None, None


class Absorb(torch.autograd.Function):
    """The identity of y, whose values are constants of a kind of `books.KINDS` where its mask, shaped as y, is 1."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, books: Books, kinds: tuple[str, ...], *masks: Tensor) -> Tensor:
        ctx.save_for_backward(*masks)
        ctx.books, ctx.kinds = books, kinds
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor | None, ...]:
        ctx.books.enter({kind: total(mask * upper) for kind, mask in zip(ctx.kinds, ctx.saved_tensors)})
        return upper, None, None, *(None for _ in ctx.kinds)


class TaylorSoftmax(torch.autograd.Function):
    """s = softmax(x) with R_i = x_i (R_i - s_i sum_j R_j): its first-order Taylor expansion around x itself.

    The expansion's constant term s_j (1 - x_j + <s, x>) takes R_j times that over s_j, entered as "softmax".

    seen  False for what the softmax leaves out (s = 0), True for the rest; None: nothing is left out

    Source: Achtibat et al. 2024, arXiv 2402.05602, proposition 3.1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, books: Books | None, seen: Tensor | None) -> Tensor:
        s = x.softmax(dim) if seen is None else x.masked_fill(~seen, -torch.inf).softmax(dim).nan_to_num()
        ctx.save_for_backward(x, s)
        ctx.dim, ctx.books, ctx.gate = dim, books, True
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None, None, None]:
        x, s = ctx.saved_tensors
        if ctx.books is not None:
            constant = 1 - x + (s * x).sum(ctx.dim, keepdim=True)
            ctx.books.enter({"softmax": total(constant * upper)})
        return x * (upper - s * upper.sum(ctx.dim, keepdim=True)), None, None, None


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
    def forward(ctx: Any, x: Tensor, layer: Layer, rule: Rule, books: Books | None) -> Tensor:
        z = layer(x)
        ctx.save_for_backward(x, z)
        ctx.layer, ctx.rule, ctx.books = layer, rule, books
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor, None, None, None]:
        x, z = ctx.saved_tensors
        shares = ctx.rule(ctx.layer, x, z, upper)
        if ctx.books is not None:
            ctx.books.enter(shares.absorbed)
        return shares.input, None, None, None


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

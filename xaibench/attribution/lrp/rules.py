"""LRP rules for single calls of linear and convolutional layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xaibench.attribution.lrp.books import total

__all__ = ["AlphaBeta", "Box", "Epsilon", "Flat", "Gamma", "Layer", "Rule", "Shares", "signed"]


class Layer(NamedTuple):
    """One call z = f(x; W, b) of a linear or convolutional layer.

    kind      "convolution" (channels in dimension 1) or "linear" (channels in the last one)
    function  (x, W, b) -> z
    adjoint   (u, x, W) -> gradient of <u, f(x; W, 0)> with respect to x
    """

    kind: str
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    adjoint: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """f(x; W, b)."""
        return self.function(x, self.weight, self.bias)

    def bias_share(self, share: Tensor, bias: Tensor | None) -> Tensor:
        """sum_j b_j s_j over channels and places: (M,) float64, for s shaped as the output (M, ...)."""
        if bias is None:
            return share.new_zeros(len(share), dtype=torch.float64)
        inner = (
            share.flatten(2).sum(2) if self.kind == "convolution" else share.reshape(len(share), -1, len(bias)).sum(1)
        )
        return inner.double() @ bias.double()


class Shares(NamedTuple):
    """How a layer shares out the relevance of its output.

    input     relevance of the input, shaped as it is
    absorbed  kind (see `books.KINDS`) -> (M,), what gets no further; input and absorbed add up to the output's
    """

    input: Tensor
    absorbed: dict[str, Tensor]


class Rule(Protocol):
    """Relevance of a layer's input and of its bias."""

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        """The shares in the call z = layer(x), whose output has the relevance `upper`."""


def signed(stabilizer: float, z: Tensor) -> Tensor:
    """-stabiliser where z < 0, else the stabiliser."""
    return torch.where(z < 0, z.new_tensor(-stabilizer), z.new_tensor(stabilizer))


@dataclass(frozen=True)
class Epsilon:
    """R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign(z_j)), and b_j R_j / (z_j + epsilon sign(z_j)) for the bias.

    Source: Bach et al. 2015.
    """

    epsilon: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        added = signed(self.epsilon, z)
        share = upper / (z + added)
        absorbed = {layer.kind: layer.bias_share(share, layer.bias), "stabiliser": total(added * share)}
        return Shares(x * layer.adjoint(share, x, layer.weight), absorbed)


@dataclass(frozen=True)
class Gamma:
    """zennit's generalised gamma rule, with three convolutions, at most four, in place of twelve.

    With x = x+ + x- and W = W+ + W- (positive and negative parts) an output z_j > 0 shares its relevance out in
    proportion to x+ (W + gamma W+) + x- (W + gamma W-), one z_j < 0 to x+ (W + gamma W-) + x- (W + gamma W+).
    As a = |x| |W| + |b| has x+ W+ + x- W- + b+ = (z + a) / 2, both sums have the absolute value
    (1 + gamma/2) |z| + gamma/2 a = d, and with t = R / (d + stabiliser), s = t sign(z)

        R_i = (1 + gamma/2) x_i (W^T s)_i + gamma/2 |x_i| (|W|^T t)_i

    which is x_i ((W + gamma W+)^T t)_i where x >= 0 and no z_j < 0 has relevance, as between two ReLUs. The bias is an
    input of 1. An output z_j = 0 leaves its relevance to the stabiliser.

    Source: Montavon et al. 2019; Andeol et al. 2021 for inputs of both signs.
    """

    gamma: float
    stabilizer: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        weight, bias, half = layer.weight, layer.bias, self.gamma / 2
        size, bias_size = x.abs(), None if bias is None else bias.abs()
        denominator = layer.function(size, weight.abs(), bias_size).mul_(half)
        share = upper / denominator.add_(z.abs(), alpha=1 + half).add_(self.stabilizer)
        zero, lost = z == 0, upper.new_zeros(())
        if bool(zero.any()):
            lost = total(upper * zero)
            share = share.masked_fill(zero, 0.0)
        absorbed = {"stabiliser": self.stabilizer * total(share) + lost}
        sided = share * z.sign()
        if torch.equal(share, sided) and torch.equal(size, x):
            absorbed[layer.kind] = layer.bias_share(share, None if bias is None else self._favoured(bias))
            return Shares(x * layer.adjoint(share, x, self._favoured(weight)), absorbed)
        plain, even = x * layer.adjoint(sided, x, weight), size * layer.adjoint(share, x, weight.abs())
        plain_bias, even_bias = layer.bias_share(sided, bias), layer.bias_share(share, bias_size)
        absorbed[layer.kind] = (1 + half) * plain_bias + half * even_bias
        return Shares((1 + half) * plain + half * even, absorbed)

    def _favoured(self, value: Tensor) -> Tensor:
        return value + self.gamma * value.clamp(min=0)


@dataclass(frozen=True)
class AlphaBeta:
    """R_i = sum_j (alpha p_ij / sum_i p_ij - beta n_ij / sum_i n_ij) R_j with alpha - beta = 1; alpha = 1: the z+ rule.

    p_ij and n_ij are the positive and negative parts of x_i w_ij and, for an input of 1, of b_j; the sums are
    stabilised. Where an output has no contributions of a sign, its relevance of that sign goes to nobody.

    Source: Bach et al. 2015.
    """

    alpha: float
    beta: float
    stabilizer: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        positive = self._of_sign(layer, x, self.alpha * upper, 1)
        if not self.beta:
            return positive
        negative = self._of_sign(layer, x, -self.beta * upper, -1)
        absorbed = {kind: amount + negative.absorbed[kind] for kind, amount in positive.absorbed.items()}
        return Shares(positive.input + negative.input, absorbed)

    def _of_sign(self, layer: Layer, x: Tensor, upper: Tensor, sign: int) -> Shares:
        pairs = [(_part(x, 1), _part(layer.weight, sign))]
        if bool((x < 0).any()):
            pairs.append((_part(x, -1), _part(layer.weight, -sign)))
        bias = None if layer.bias is None else _part(layer.bias, sign)
        return _in_proportion(layer, pairs, bias, upper, self.stabilizer, "missing_sign")


@dataclass(frozen=True)
class Box:
    """R_i = sum_j c_ij R_j / (sum_i c_ij + stabiliser), c_ij = (x_i - low_i) w+_ij + (x_i - high_i) w-_ij.

    Of z less what the bounds give, in which the bias cancels: it gets nothing.

    low, high  bounds of x, (1 or N, C, 1 or H, 1 or W)

    Source: Montavon et al. 2017.
    """

    low: Tensor
    high: Tensor
    stabilizer: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        pairs = [(x - self.low, _part(layer.weight, 1)), (x - self.high, _part(layer.weight, -1))]
        return _in_proportion(layer, pairs, None, upper, self.stabilizer)


@dataclass(frozen=True)
class Flat:
    """An output shares its relevance out in equal parts among the inputs that it reads; the bias gets nothing.

    Source: Lapuschkin et al. 2019.
    """

    stabilizer: float

    def __call__(self, layer: Layer, x: Tensor, z: Tensor, upper: Tensor) -> Shares:
        ones = [(torch.ones_like(x), torch.ones_like(layer.weight))]
        return _in_proportion(layer, ones, None, upper, self.stabilizer)


def _in_proportion(
    layer: Layer,
    pairs: list[tuple[Tensor, Tensor]],
    bias: Tensor | None,
    upper: Tensor,
    stabilizer: float,
    lost: str = "stabiliser",
) -> Shares:
    """In proportion to the contributions of inputs x_k by weights W_k, of all (x_k, W_k) in `pairs`, and of a bias.

    lost  the kind that the stabiliser's share is
    """
    (first, weight), *others = pairs
    z = layer.function(first, weight, bias)
    for x, w in others:
        z = z + layer.function(x, w, None)
    added = signed(stabilizer, z)
    share = upper / (z + added)
    relevance = first * layer.adjoint(share, first, weight)
    for x, w in others:
        relevance = relevance + x * layer.adjoint(share, x, w)
    return Shares(relevance, {layer.kind: layer.bias_share(share, bias), lost: total(added * share)})


def _part(value: Tensor, sign: int) -> Tensor:
    """The positive part of a tensor, or the negative one."""
    return value.clamp(min=0) if sign > 0 else value.clamp(max=0)

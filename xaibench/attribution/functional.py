"""Forward passes whose gradients are relevance, whatever the operations are called from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaibench.attribution.composites import Rules
from xaibench.attribution.operations import handler_of, name_of
from xaibench.attribution.rules import Enter, Layer, Leave, Ruled, varies
from xaibench.models.folding import fold, foldable

__all__ = ["RelevanceMode", "shared_copy"]


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` with modules and parameters of its own, without gradients, over the same values in memory."""
    shared: dict[int, Tensor] = {id(value): value.detach() for value in model.buffers()}
    shared |= {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in model.parameters()}
    return copy.deepcopy(model, shared)


class RelevanceMode(TorchFunctionMode):
    """Within it, what torch computes from tensors that need gradients has relevance as its gradient.

    Convolutions and linear layers follow the rules given. For the rest:

    epsilon rule  R_i = x_i sum_j (dy_j / dx_i) R_j / (y_j + stabiliser sign(y_j)) for sums and differences, means,
                  average pooling, batch normalisation that could not be folded; layer normalisation with 1/sigma,
                  attention (fused, explicit, nn.MultiheadAttention) with its weights held constant
    R as it is    activations, multiplication by constants, a of a x gate; the gate, which a (hard) sigmoid gave, gets 0

    What is added as a constant (biases, class tokens, position embeddings) keeps its share of the relevance. Without
    such constants (`bare`) each of these operations hands on what it gets but for
    stabiliser sum_j |R_j| / (|y_j| + stabiliser). Summed over the operations of a transformer this bounds its error of
    conservation, which goes to 0 with the stabiliser, up to rounding.

    Anything else keeps its gradient, which is no relevance unless it only moves values: see `coverage.Trail`.

    rules  for the layers
    bare   True: compute without biases and other added constants, so that relevance is conserved
    """

    def __init__(self, rules: Rules, bare: bool = False) -> None:
        self.rules = rules
        self.bare = bare
        self.note: Callable[[Tensor, str, Any], None] | None = None
        self._before_first = True
        self.padded: tuple[Tensor, Tensor, Any] | None = None  # (padded, what was padded, by how much)

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[nn.Module]:
        """Within the block, each forward pass of `model`, a copy of our own, runs in this mode.

        Before the first one, the batch normalisations that can be folded into the layer before them are: modules get
        new parameters, the values of the old ones stay.
        """
        plain, twin = model.forward, [shared_copy(model)]

        def forward(x: Tensor) -> Tensor:
            if twin:  # run without the hooks that the copy's user may have set
                for layer, norm in foldable(twin.pop(), x[:1]):
                    fold(model.get_submodule(layer), model.get_submodule(norm))
            self._before_first, self.padded = True, None
            with self:
                logits: Tensor = plain(x)
            self.padded = None
            return logits

        model.forward = forward
        try:
            yield model
        finally:
            del model.forward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = handler_of(func)
        if handler is not None and torch.is_grad_enabled():
            result = handler(self, func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if self.note is not None and isinstance(result, Tensor) and result.grad_fn is not None:
            self.note(result, name_of(func), args)
        return result

    def affine(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """function(*args, **kwargs), affine in the tensors among `args` that vary, by the epsilon rule."""
        if not any(map(varies, args)):
            return NotImplemented
        entered = (Enter.apply(a) if varies(a) else a for a in args)
        return Leave.apply(function(*entered, **kwargs), self.rules.stabilizer)

    def layer(self, kind: str, function: Any, adjoint: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """The layer function(x, weight, bias) by the rule of its kind ("convolution", "linear"); see `rules.Layer`."""
        if not varies(x) or varies(weight) or varies(bias):
            return NotImplemented
        rule = self.rules.linear if kind == "linear" else self.rules.convolution
        if self._before_first and self.rules.first is not None and kind in self.rules.first_kinds:
            rule, self._before_first = self.rules.first, False
            if self.rules.outside is not None and bool(self.rules.outside(x).any()):
                return NotImplemented
        return Ruled.apply(x, Layer(function, adjoint, weight, None if self.bare else bias), rule)

"""Forward passes whose gradients are relevance, whatever the operations are called from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaibench.attribution.lrp.composites import Rules
from xaibench.attribution.lrp.operations import handler_of, name_of
from xaibench.attribution.lrp.rules import Enter, Layer, Leave, Rule, Ruled, varies
from xaibench.errors import ExplanationError
from xaibench.models.folding import fold, foldable

if TYPE_CHECKING:
    from xaibench.attribution.lrp.missing_rules import Trail

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

    Anything else keeps its gradient, which is no relevance unless it only moves values: see `coverage.Trail`, which
    takes note of what is computed as `trail`, if one is set.

    rules  for the layers
    bare   True: compute without biases and other added constants, so that relevance is conserved

    ExplanationError, in a forward pass, where the rules have a box and the first convolution reads anything but the
    images or a rearrangement of them (views, flips, padding): the bounds of what it reads are not known then.
    """

    def __init__(self, rules: Rules, bare: bool = False) -> None:
        self.rules = rules
        self.bare = bare
        self.trail: Trail | None = None
        self._before_first = True
        self._bounds: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of the images and rearrangements of them
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
            self._bounds = {} if self.rules.bounds is None else {id(x): (x, *self.rules.bounds)}
            with self:
                logits: Tensor = plain(x)
            self._bounds, self.padded = {}, None
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
        if self.trail is not None and isinstance(result, Tensor) and result.grad_fn is not None:
            self.trail.note(result, name_of(func), args)
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
        self.constant(kind, bias)
        return Ruled.apply(x, Layer(function, adjoint, weight, None if self.bare else bias), self._rule(kind, x))

    def constant(self, name: str, value: Any) -> Any:
        """`value` if relevance can reach it; else it is a constant, which the function `name` adds: 0 if `bare`."""
        if varies(value) or value is None:
            return value
        if self.trail is not None:
            self.trail.constant(value, name)
        return value * 0 if self.bare else value

    def moved(self, result: Tensor, move: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """`result` = move(*sources), which only moves values: the bounds of known sources are moved alike."""
        known = [self._bounds[id(source)] for source in sources if id(source) in self._bounds]
        if len(known) == len(sources) and known:
            low, high = (move(*(part[i].expand_as(part[0]) for part in known)) for i in (1, 2))
            self._bounds[id(result)] = result, low, high
        return result

    def _rule(self, kind: str, x: Tensor) -> Rule:
        if self._before_first and self.rules.box is not None and kind == "convolution":
            self._before_first = False
            if id(x) not in self._bounds:
                raise ExplanationError(
                    "the box rule is for a first convolution that reads the image, but this network's reads what was "
                    "computed from it: use composite=epsilon-plus, or move resizing and scaling into the preprocessing"
                )
            return self.rules.box(*self._bounds[id(x)][1:])
        if self._before_first and self.rules.first is not None and kind in self.rules.first_kinds:
            self._before_first = False
            return self.rules.first
        return self.rules.linear if kind == "linear" else self.rules.convolution

"""How relevance is propagated through single operations: what the rules of all operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from xaibench.attribution.lrp.composites import Rules
from xaibench.attribution.lrp.missing_rules import Trail
from xaibench.attribution.lrp.rules import Enter, Layer, Leave, Rule, Ruled, varies
from xaibench.errors import ExplanationError

__all__ = ["Propagation"]


class Propagation(TorchFunctionMode):
    """The state of one relevance pass, and the building blocks of which `operations` makes each operation's rule.

    rules   of the layers
    bare    True: leave out biases and other added constants, so that relevance is conserved
    trail   where set, notes which tensors are taken for constants; see `missing_rules.Trail`
    padded  the last zero padding: (result, what was padded, by how much); a convolution takes it over as its own
    """

    def __init__(self, rules: Rules, bare: bool = False) -> None:
        super().__init__()
        self.rules = rules
        self.bare = bare
        self.trail: Trail | None = None
        self.padded: tuple[Tensor, Tensor, Any] | None = None
        self._before_first = True
        self._bounds: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of the images and rearrangements of them

    def start(self, x: Tensor) -> None:
        """A forward pass of images x begins."""
        self._before_first, self.padded = True, None
        self._bounds = {} if self.rules.bounds is None else {id(x): (x, *self.rules.bounds)}

    def end(self) -> None:
        """The forward pass is over: let go of its tensors."""
        self._bounds, self.padded = {}, None

    def affine(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """function(*args, **kwargs) with the epsilon rule; the function is affine in those `args` that vary."""
        if not any(map(varies, args)):
            return NotImplemented
        entered = (Enter.apply(a) if varies(a) else a for a in args)
        return Leave.apply(function(*entered, **kwargs), self.rules.stabilizer)

    def layer(self, kind: str, function: Any, adjoint: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """function(x, weight, bias) with the rule of its kind, "convolution" or "linear"; see `rules.Layer`."""
        if not varies(x) or varies(weight) or varies(bias):
            return NotImplemented
        self.constant(kind, bias)
        return Ruled.apply(x, Layer(function, adjoint, weight, None if self.bare else bias), self._rule(kind, x))

    def constant(self, name: str, value: Any) -> Any:
        """`value`, an addend in the function `name`: unchanged, but 0 where it is constant and `bare` is set."""
        if varies(value) or value is None:
            return value
        if self.trail is not None:
            self.trail.constant(value, name)
        return value * 0 if self.bare else value

    def moved(self, result: Tensor, move: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """`result` = move(*sources), for a `move` that only rearranges values: it rearranges the box bounds alike."""
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

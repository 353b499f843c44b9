"""How relevance is propagated through single operations: what the rules of all operations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xaibench.attribution.lrp.books import Books
from xaibench.attribution.lrp.composites import Rules
from xaibench.attribution.lrp.functions import Absorb, Enter, Leave, Ruled, varies
from xaibench.attribution.lrp.missing_rules import Trail
from xaibench.attribution.lrp.rules import Layer, Rule
from xaibench.errors import ExplanationError

__all__ = ["Propagation"]


class Propagation(TorchFunctionMode):
    """The state of one relevance pass, and the building blocks of which `operations` makes each operation's rule.

    rules   of the layers
    books   where set, the backward pass enters what constants and stabilisers absorb
    trail   where set, notes which tensors are taken for constants; see `missing_rules.Trail`
    padded  the last zero padding: (result, what was padded, by how much); a convolution takes it over as its own
    parameters  where the network's parameters lie in memory
    """

    def __init__(self, rules: Rules, books: Books | None = None) -> None:
        super().__init__()
        self.rules = rules
        self.books = books
        self.trail: Trail | None = None
        self.padded: tuple[Tensor, Tensor, Any] | None = None
        self.parameters: frozenset[int] = frozenset()
        self._before_first = True
        self._bounds: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # of the images and rearrangements of them

    def start(self, x: Tensor) -> None:
        """A forward pass of images x begins."""
        self._before_first, self.padded = True, None
        self._bounds = {} if self.rules.bounds is None else {id(x): (x, *self.rules.bounds)}

    def end(self) -> None:
        """The forward pass is over: let go of its tensors."""
        self._bounds, self.padded = {}, None

    def affine(self, function: Callable[..., Any], *args: Any, constant: Tensor | None = None, kind: str = "") -> Any:
        """function(*args) with the epsilon rule; the function is affine in those `args` that vary.

        constant  what it gives where those are 0, None for 0; its share is of this `kind` of `books.KINDS`
        """
        if not any(map(varies, args)):
            return NotImplemented
        entered = (Enter.apply(a) if varies(a) else a for a in args)
        return Leave.apply(function(*entered), self.rules.stabilizer, constant, kind, self.books)

    def layer(self, kind: str, function: Any, adjoint: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """function(x, weight, bias) with the rule of its kind, "convolution" or "linear"; see `rules.Layer`."""
        if not varies(x) or varies(weight) or varies(bias):
            return NotImplemented
        self.note_constants(kind, bias)
        return Ruled.apply(x, Layer(kind, function, adjoint, weight, bias), self._rule(kind, x), self.books)

    def joined(self, result: Tensor, join: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """`result` = join(*sources), for a `join` that puts values beside each other, of which some are constants."""
        kinds = [None if varies(source) else self.kind_of(source) for source in sources]
        found = tuple(sorted({kind for kind in kinds if kind is not None}))
        if self.books is None or not found:
            return result
        masks = (join(*(torch.full_like(v, own == kind) for v, own in zip(sources, kinds))) for kind in found)
        return Absorb.apply(result, self.books, found, *masks)

    def kind_of(self, constant: Any) -> str:
        """Of `books.KINDS`: "embedding" for a parameter of the network or a view of one, else "constant"."""
        lies = constant.untyped_storage().data_ptr() if isinstance(constant, Tensor) else None
        return "embedding" if lies in self.parameters else "constant"

    def note_constants(self, name: str, *values: Any) -> None:
        """Tell `trail` which of the operands of the function `name` are taken for constants."""
        for value in values:
            if self.trail is not None and not varies(value) and value is not None:
                self.trail.constant(value, name)

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
        if kind == "convolution":
            return self.rules.convolution
        return self.rules.tokens if self.rules.tokens is not None and x.ndim > 2 else self.rules.linear

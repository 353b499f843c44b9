"""LRP composites: which rule each layer gets, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaibench.attribution.lrp.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, Rule

__all__ = ["ATTENTION", "CANONIZERS", "COMPOSITES", "Composite", "Options", "Rules", "rules_of"]

ATTENTION = ("constant", "attnlrp")
"""How relevance passes attention; see `LRP`."""

CANONIZERS = ("none", "resnet", "sequential", "vgg")
"""Names of zennit's canonizers, see `by_zennit`."""

_BOX_SLACK = 1e-4


@dataclass(frozen=True)
class Options:
    """What the rules of a composite depend on.

    low, high   (1, C, 1, 1), bounds of the network's input, on its device
    stabilizer  what is added to the size of every denominator but those of the epsilon rule
    linear_gamma, attention  as in `LRP`
    """

    epsilon: float
    gamma: float
    low: Tensor
    high: Tensor
    stabilizer: float = 1e-6
    linear_gamma: float = 0.0
    attention: str = "constant"

    def outside(self, x: Tensor) -> Tensor:
        """Where x (N, C, H, W) lies outside the bounds, but for rounding: bool, shaped as x."""
        slack = _BOX_SLACK * (self.high - self.low)
        return (x < self.low - slack) | (x > self.high + slack)

    def noise(self, x: Tensor) -> Tensor:
        """Other images than x: uniform noise between the bounds, always the same."""
        uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        return self.low + uniform * (self.high - self.low)


@dataclass(frozen=True)
class Rules:
    """The rules of one network.

    convolution, linear  of the layers of that kind
    tokens               of linear layers that read several places, (N, ..., d) with more than two dimensions; None: as
                         `linear`
    attention            one of ATTENTION
    first                of the first layer that runs and is of a kind in `first_kinds`
    box                  of the first convolution, from bounds (low, high) of what it reads
    bounds               (low, high) of the images, for `box`
    stabilizer           as in `Options`, for operations that are no layers
    """

    convolution: Rule
    linear: Rule
    tokens: Rule | None = None
    attention: str = "constant"
    first: Rule | None = None
    first_kinds: tuple[str, ...] = ()
    box: Callable[[Tensor, Tensor], Rule] | None = None
    bounds: tuple[Tensor, Tensor] | None = None
    stabilizer: float = 1e-6


@dataclass(frozen=True)
class Composite:
    """One line of COMPOSITES.

    rules  of a network, with these options
    gamma  whether it uses the option gamma
    box    whether its first rule needs inputs within the bounds
    """

    rules: Callable[[Options], Rules]
    gamma: bool = False
    box: bool = False


def _epsilon_gamma_box(o: Options) -> Rules:
    return Rules(
        Gamma(o.gamma, o.stabilizer),
        Epsilon(o.epsilon),
        box=lambda low, high: Box(low, high, o.stabilizer),
        bounds=(o.low, o.high),
        stabilizer=o.stabilizer,
    )


def _epsilon_plus(o: Options) -> Rules:
    return Rules(AlphaBeta(1, 0, o.stabilizer), Epsilon(o.epsilon), stabilizer=o.stabilizer)


def _epsilon_plus_flat(o: Options) -> Rules:
    return replace(_epsilon_plus(o), first=Flat(o.stabilizer), first_kinds=("convolution", "linear"))


def _alpha2_beta1(o: Options) -> Rules:
    return Rules(AlphaBeta(2, 1, o.stabilizer), Epsilon(o.epsilon), stabilizer=o.stabilizer)


COMPOSITES: dict[str, Composite] = {
    "epsilon-gamma-box": Composite(_epsilon_gamma_box, gamma=True, box=True),
    "epsilon-plus": Composite(_epsilon_plus),
    "epsilon-plus-flat": Composite(_epsilon_plus_flat),
    "alpha2-beta1": Composite(_alpha2_beta1),
}


def rules_of(composite: str, options: Options) -> Rules:
    """Our rules of a composite, by name."""
    tokens = Gamma(options.linear_gamma, options.stabilizer) if options.linear_gamma else None
    return replace(COMPOSITES[composite].rules(options), tokens=tokens, attention=options.attention)

"""zennit's own composites and canonizers, by name. Slow to import: needed only where zennit alone propagates."""

from __future__ import annotations

from collections.abc import Callable

from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from xaibench.attribution.lrp.composites import Options

__all__ = ["zennit_composite"]

_CANONIZERS: dict[str, tuple[type[Canonizer], ...]] = {
    "none": (),
    "resnet": (ResNetCanonizer,),
    "sequential": (SequentialMergeBatchNorm,),
    "vgg": (VGGCanonizer,),
}

_COMPOSITES: dict[str, Callable[[Options, list[Canonizer]], Composite]] = {
    "epsilon-gamma-box": lambda o, c: EpsilonGammaBox(o.low, o.high, o.epsilon, o.gamma, o.stabilizer, canonizers=c),
    "epsilon-plus": lambda o, c: EpsilonPlus(epsilon=o.epsilon, stabilizer=o.stabilizer, canonizers=c),
    "epsilon-plus-flat": lambda o, c: EpsilonPlusFlat(epsilon=o.epsilon, stabilizer=o.stabilizer, canonizers=c),
    "alpha2-beta1": lambda o, c: EpsilonAlpha2Beta1(epsilon=o.epsilon, stabilizer=o.stabilizer, canonizers=c),
}


def zennit_composite(composite: str, canonizer: str, options: Options) -> Composite:
    """zennit's composite of that name in COMPOSITES, with its canonizer of that name in CANONIZERS."""
    return _COMPOSITES[composite](options, [make() for make in _CANONIZERS[canonizer]])

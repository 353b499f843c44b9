"""zennit's canonizers by name."""

from __future__ import annotations

from collections.abc import Callable

from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

__all__ = ["CANONIZERS"]

CANONIZERS: dict[str, Callable[[], list[Canonizer]]] = {
    "none": list,
    "resnet": lambda: [ResNetCanonizer()],
    "sequential": lambda: [SequentialMergeBatchNorm()],
    "vgg": lambda: [VGGCanonizer()],
}

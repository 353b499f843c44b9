"""Methods that change how another method is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from xaibench.distillation.methods.base import Method
from xaibench.distillation.methods.logit import KD
from xaibench.models.pair import ModelPair

__all__ = ["Wrapped"]


@dataclass(frozen=True)
class Wrapped(Method):
    """A method that changes how another one is trained, written NAME[METHOD]."""

    name: ClassVar[str] = "wrapped"
    method: Method = field(default_factory=KD)

    def prepare(self, pair: ModelPair, seed: int) -> ModelPair:
        return self.method.prepare(pair, seed)

    def data_seed(self, seed: int) -> int:
        return self.method.data_seed(seed)

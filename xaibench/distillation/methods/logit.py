"""Methods on the logits of the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.dkd import dkd
from xaibench.distillation.methods.base import (
    Logits,
    Method,
    check_not_negative,
    check_positive,
    check_share,
    check_weights,
)
from xaibench.models.layer_outputs import Outputs

__all__ = ["DKD", "KD", "warm_up"]


@dataclass(frozen=True)
class KD(Method):
    """alpha T^2 KL(teacher || student) + (1 - alpha) CE. Source: Hinton et al. 2015, arXiv 1503.02531.

    standardise  KL of logits that are standardised first (`losses.kd.standardised`); its authors take T = 2 and
                 9 KL + 0.1 CE, which is alpha = 0.989 but for a factor
    """

    name: ClassVar[str] = "kd"
    alpha: float = 0.9
    temperature: float = 4.0
    standardise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_share(alpha=self.alpha)

    def build(self, setting: Setting) -> Criterion:
        return Logits({"kd": self.alpha, "ce": 1 - self.alpha}, self.temperature, standardise=self.standardise)


@dataclass(frozen=True)
class DKD(Method):
    """CE + min((epoch + 1) / warmup, 1) T^2 (alpha TCKD + beta NCKD), as in `losses.dkd.dkd`.

    beta         8; the authors take 2 or 6 for some pairs
    warmup       epochs over which the distillation term grows; 0 for none. Epochs count from 0
    standardise  of logits that are standardised first, `losses.kd.standardised`
    Source: Zhao et al. 2022, arXiv 2203.08679.
    """

    name: ClassVar[str] = "dkd"
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warmup: int = 20
    task_weight: float = 1.0
    standardise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_weights(alpha=self.alpha, beta=self.beta)
        check_not_negative(task_weight=self.task_weight)
        check_not_negative(warmup=self.warmup)

    def build(self, setting: Setting) -> Criterion:
        return _DKD(self)


def warm_up(epoch: int, epochs: int) -> float:
    """min((epoch + 1) / epochs, 1) for an epoch counted from 0; 1 where `epochs` is 0."""
    return min((epoch + 1) / epochs, 1.0) if epochs else 1.0


class _DKD(Logits):
    def __init__(self, method: DKD) -> None:
        super().__init__({"dkd": 1.0, "ce": method.task_weight}, standardise=method.standardise)
        self.method = method

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        m = self.method
        logits = self.compared(student.logits.float()), self.compared(teacher["logits"])
        value = dkd(*logits, batch.labels, m.alpha, m.beta, m.temperature)
        return super().terms(student, teacher, batch) | {"dkd": warm_up(batch.epoch, m.warmup) * value}

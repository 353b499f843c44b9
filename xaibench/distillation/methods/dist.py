"""DIST: correlations in place of the KL divergence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.dist import dist
from xaibench.distillation.methods.base import (
    BATCH_COUPLING,
    Logits,
    Method,
    check_not_negative,
    check_positive,
    check_weights,
)
from xaibench.models.layer_outputs import Outputs

__all__ = ["DIST"]


@dataclass(frozen=True)
class DIST(Method):
    """task_weight CE + T^2 (beta (1 - r over classes) + gamma (1 - r over samples)), `losses.dist.dist`.

    beta, gamma  2, as in PaddleClas' configuration for ImageNet; 1 in the authors' loss, whose factor their scripts set
    Source: Huang et al. 2022 (NeurIPS), arXiv 2205.10536.
    """

    name: ClassVar[str] = "dist"
    beta: float = 2.0
    gamma: float = 2.0
    temperature: float = 1.0
    task_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_weights(beta=self.beta, gamma=self.gamma)
        check_not_negative(task_weight=self.task_weight)

    def build(self, setting: Setting) -> Criterion:
        return _Relations(self)


class _Relations(Logits):
    def __init__(self, method: DIST) -> None:
        super().__init__({"dist": 1.0, "ce": method.task_weight})
        self.method = method
        self.coupling = BATCH_COUPLING if method.gamma > 0 else ""

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        m = self.method
        value = dist(student.logits.float(), teacher["logits"], m.beta, m.gamma, m.temperature)
        return super().terms(student, teacher, batch) | {"dist": value}

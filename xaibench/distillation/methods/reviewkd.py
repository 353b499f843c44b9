"""ReviewKD: the student's deep layers help its shallow ones to meet the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.reviewkd import ReviewLoss
from xaibench.distillation.methods.base import Logits, check_not_negative, seeded
from xaibench.distillation.methods.layered import Feature
from xaibench.distillation.methods.logit import warm_up
from xaibench.models.layer_outputs import Outputs

__all__ = ["ReviewKD"]


@dataclass(frozen=True)
class ReviewKD(Feature):
    """min((epoch + 1) / warmup, 1) times `losses.reviewkd`, of all layer pairs from shallow to deep.

    layer_weight  5, as in mdistiller's CIFAR-100 configuration; its authors take 0.6 to 8, a pair of models
    warmup        epochs over which it grows; 0 for none
    Source: Chen et al. 2021 (CVPR), arXiv 2104.09044.
    """

    name: ClassVar[str] = "reviewkd"
    layer_weight: float = 5.0
    layers: tuple[str, ...] = ()
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(warmup=self.warmup)

    def build(self, setting: Setting) -> Criterion:
        return _Review(self, setting)


class _Review(Logits):
    def __init__(self, method: ReviewKD, setting: Setting) -> None:
        weights = {"kd": method.kd_weight, "ce": method.task_weight, "reviewkd": method.layer_weight}
        super().__init__(weights, method.temperature)
        self.warmup = method.warmup
        self.pairs = setting.layer_pairs(method.layers) if method.layer_weight > 0 else ()
        self.teacher_layers = tuple(dict.fromkeys(pair.teacher for pair in self.pairs))
        self.student_layers = tuple(dict.fromkeys(pair.student for pair in self.pairs))
        if self.pairs:
            teacher = [setting.teacher_shapes[pair.teacher] for pair in self.pairs]
            student = [setting.student_shapes[pair.student] for pair in self.pairs]
            with seeded(setting.seed):
                self.loss = ReviewLoss(teacher, student)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return super().summarise(teacher) | {name: teacher.layers[name] for name in self.teacher_layers}

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        if self.pairs:
            wanted = [teacher[pair.teacher] for pair in self.pairs]
            value = self.loss([student.layers[pair.student] for pair in self.pairs], wanted)
            terms["reviewkd"] = warm_up(batch.epoch, self.warmup) * value
        return terms

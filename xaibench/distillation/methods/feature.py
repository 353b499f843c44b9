"""Methods on the features of paired layers, and on explanations made of them.

RepDistiller, whose multipliers stand in `layer_weight`, trains on CE in place of the common base:
kd_weight=0,task_weight=1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.at import AttentionLoss
from xaibench.distillation.losses.crd import ContrastiveLoss
from xaibench.distillation.losses.e2kd import e2kd, grad_cam
from xaibench.distillation.losses.fitnet import FITNET_VARIANTS, FitNetLoss
from xaibench.distillation.losses.layer import LayerLoss
from xaibench.distillation.losses.semckd import SemanticLoss
from xaibench.distillation.losses.spkd import SPKD_VARIANTS, SimilarityLoss
from xaibench.distillation.losses.vid import VIDLoss
from xaibench.distillation.losses.vkd import VkDLoss
from xaibench.distillation.methods.base import (
    BATCH_COUPLING,
    Logits,
    check_positive,
    seeded,
    step_generator,
)
from xaibench.distillation.methods.layered import Feature, LayerByLayer
from xaibench.errors import ConfigError, ModelError, unknown_name
from xaibench.models.layer_outputs import Outputs
from xaibench.models.local_logits import SpatialHead
from xaibench.models.maps import Shape

__all__ = ["AT", "CRD", "E2KD", "SPKD", "VID", "FitNet", "SemCKD", "VkD"]

_MOST_DIMENSIONS = 2**16


@dataclass(frozen=True)
class FitNet(LayerByLayer):
    """Regress the teacher's maps, `losses.fitnet`. Source: arXiv 1412.6550; RepDistiller's weight."""

    name: ClassVar[str] = "fitnet"
    layer_weight: float = 100.0
    variant: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in FITNET_VARIANTS:
            raise unknown_name("FitNet variant", self.variant, FITNET_VARIANTS)

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return FitNetLoss(teacher, student, self.variant)


@dataclass(frozen=True)
class AT(LayerByLayer):
    """Match where layers are active, `losses.at`. Source: arXiv 1612.03928; weight of RepDistiller."""

    name: ClassVar[str] = "at"
    layer_weight: float = 1000.0

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return AttentionLoss(teacher, student)


@dataclass(frozen=True)
class VID(LayerByLayer):
    """Gaussian likelihood of the teacher's maps given the student's, `losses.vid`. Source: arXiv 1904.05835.

    learned_scale  False: the variances stay at their initial value, as in SubDistill's code on a GPU
    """

    name: ClassVar[str] = "vid"
    learned_scale: bool = True

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return VIDLoss(teacher, student, learned_scale=self.learned_scale)


@dataclass(frozen=True)
class SPKD(LayerByLayer):
    """Match which samples are alike, `losses.spkd`, at the last layer. Source: arXiv 1907.09682."""

    name: ClassVar[str] = "spkd"
    layer_weight: float = 3000.0
    layers: tuple[str, ...] = ("last",)
    variant: str = "squared"
    coupling: ClassVar[str] = BATCH_COUPLING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in SPKD_VARIANTS:
            raise unknown_name("SPKD variant", self.variant, SPKD_VARIANTS)

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return SimilarityLoss(self.variant)


@dataclass(frozen=True)
class VkD(LayerByLayer):
    """Project the last layer onto the teacher's normalised features, `losses.vkd`. Source: arXiv 2403.06213."""

    name: ClassVar[str] = "vkd"
    layers: tuple[str, ...] = ("last",)

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return VkDLoss(teacher, student)


@dataclass(frozen=True)
class CRD(Feature):
    """Contrast the pooled features of the last layer pair with those of other images, `losses.crd`.

    Source: ICLR 2020, arXiv 1910.10699; weight of RepDistiller.
    """

    name: ClassVar[str] = "crd"
    layer_weight: float = 0.8
    negatives: int = 16384
    contrast_temperature: float = 0.07
    momentum: float = 0.5
    dimensions: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            contrast_temperature=self.contrast_temperature, negatives=self.negatives, dimensions=self.dimensions
        )
        if self.dimensions > _MOST_DIMENSIONS:
            raise ConfigError(f"dimensions must be at most {_MOST_DIMENSIONS}, got {self.dimensions}: 128 is usual")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be at least 0 and below 1, got {self.momentum}")

    def build(self, setting: Setting) -> Criterion:
        return _Contrastive(self, setting)


@dataclass(frozen=True)
class SemCKD(Feature):
    """Every student layer learns from all teacher layers, `losses.semckd`.

    Source: AAAI 2021, arXiv 2012.03236; weight of RepDistiller.
    """

    name: ClassVar[str] = "semckd"
    layer_weight: float = 400.0

    def build(self, setting: Setting) -> Criterion:
        return _Semantic(self, setting)


@dataclass(frozen=True)
class E2KD(Feature):
    """Match Grad-CAM explanations of the teacher's prediction, `losses.e2kd`. Source: arXiv 2402.03119.

    The maps are those before global average pooling, hence both models need a pooled linear head.
    """

    name: ClassVar[str] = "e2kd"

    def build(self, setting: Setting) -> Criterion:
        return _Explained(self, setting)


class _Contrastive(Logits):
    coupling = "its loss contrasts a sample with a memory of the others"

    def __init__(self, method: CRD, setting: Setting) -> None:
        weights = {"kd": method.kd_weight, "ce": method.task_weight, "crd": method.layer_weight}
        super().__init__(weights, method.temperature)
        (self.pair,) = setting.layer_pairs(("last",))
        self.teacher_layers, self.student_layers = (self.pair.teacher,), (self.pair.student,)
        self.seed = setting.seed
        with seeded(setting.seed):
            self.loss = ContrastiveLoss(
                setting.teacher_shapes[self.pair.teacher][0],
                setting.student_shapes[self.pair.student][0],
                setting.labels,
                dimensions=method.dimensions,
                negatives=method.negatives,
                temperature=method.contrast_temperature,
                momentum=method.momentum,
            )

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return super().summarise(teacher) | {"pooled": teacher.layers[self.pair.teacher].mean((2, 3)).float()}

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        pooled = student.layers[self.pair.student].mean((2, 3)).float()
        if "crd" in self.weights:
            with torch.autocast(pooled.device.type, enabled=False):
                generator = step_generator(self.seed, batch)
                terms["crd"] = self.loss(pooled, teacher["pooled"], batch.indices, generator)
        return terms


class _Semantic(Logits):
    coupling = BATCH_COUPLING

    def __init__(self, method: SemCKD, setting: Setting) -> None:
        weights = {"kd": method.kd_weight, "ce": method.task_weight, "semckd": method.layer_weight}
        super().__init__(weights, method.temperature)
        pairs = setting.layer_pairs()
        self.teacher_layers = tuple(dict.fromkeys(p.teacher for p in pairs))
        self.student_layers = tuple(dict.fromkeys(p.student for p in pairs))
        with seeded(setting.seed):
            self.loss = SemanticLoss(
                [setting.teacher_shapes[name] for name in self.teacher_layers],
                [setting.student_shapes[name] for name in self.student_layers],
                setting.batch_size,
            )

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return super().summarise(teacher) | {name: teacher.layers[name] for name in self.teacher_layers}

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        if "semckd" in self.weights:
            maps = [student.layers[name] for name in self.student_layers]
            terms["semckd"] = self.loss(maps, [teacher[name] for name in self.teacher_layers])
        return terms


class _Explained(Logits):
    def __init__(self, method: E2KD, setting: Setting) -> None:
        weights = {"kd": method.kd_weight, "ce": method.task_weight, "e2kd": method.layer_weight}
        super().__init__(weights, method.temperature)
        self.teacher_head, self.student_head = setting.heads
        for role, head in (("teacher", self.teacher_head), ("student", self.student_head)):
            if head.weight is None:
                raise ModelError(
                    f"e2kd needs a single linear layer behind the {role}'s global pooling: use another method"
                )
        self.teacher_layers, self.student_layers = (self.teacher_head.layer,), (self.student_head.layer,)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        top = teacher.logits.argmax(1)
        return super().summarise(teacher) | {"cam": _cams(teacher, self.teacher_head)[torch.arange(len(top)), top]}

    def observe(self, student: Outputs) -> Outputs:
        return Outputs(student.logits, student.layers | {"cams": _cams(student, self.student_head)})

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        if "e2kd" in self.weights:
            top = teacher["logits"].argmax(1)
            terms["e2kd"] = e2kd(student.layers["cams"][torch.arange(len(top)), top], teacher["cam"])
        return terms


def _cams(outputs: Outputs, head: SpatialHead) -> Tensor:
    with torch.autocast(outputs.logits.device.type, enabled=False):
        return grad_cam(outputs.layers[head.layer].float(), head.weight)  # type: ignore[arg-type]

"""RKD: how the samples of a batch lie to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xaibench.distillation.losses.layer import LayerLoss
from xaibench.distillation.losses.rkd import RelationLoss
from xaibench.distillation.methods.base import BATCH_COUPLING, check_weights
from xaibench.distillation.methods.layered import LayerByLayer
from xaibench.models.maps import Shape

__all__ = ["RKD"]


@dataclass(frozen=True)
class RKD(LayerByLayer):
    """Match distances and angles between samples, `losses.rkd`, of the last layer's pooled features.

    Source: Park et al. 2019 (CVPR), arXiv 1904.05068; weights of RepDistiller.
    """

    name: ClassVar[str] = "rkd"
    layers: tuple[str, ...] = ("last",)
    distance_weight: float = 25.0
    angle_weight: float = 50.0
    coupling: ClassVar[str] = BATCH_COUPLING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(distance_weight=self.distance_weight, angle_weight=self.angle_weight)

    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        return RelationLoss(self.distance_weight, self.angle_weight)

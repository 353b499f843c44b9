"""RKD: distances and angles between the samples of a batch. Park et al. 2019 (CVPR), arXiv 1904.05068."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.layer import LayerLoss, check_samples

__all__ = ["RelationLoss", "rkd"]


def rkd(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """distance_weight mean_ij H(D_S - D_T) + angle_weight mean_ijk H(A_S - A_T): (B, k), (B, d) -> (B,).

    D_ij = ||x_i - x_j|| / their mean over i != j, A_ijk the cosine of the angle at x_i between x_j and x_k, H Huber's
    loss with threshold 1. The value at b is the part of i = b, times B: the mean over b is the loss.
    """
    check_samples(student, teacher, "RKD")
    (distance, angle), (wanted_distance, wanted_angle) = _relations(student), _relations(teacher)
    distances = F.smooth_l1_loss(distance, wanted_distance, reduction="none").mean(1)
    angles = F.smooth_l1_loss(angle, wanted_angle, reduction="none").mean((1, 2))
    return distance_weight * distances + angle_weight * angles


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Relative distances (B, B) and cosines of angles (B, B, B) between the rows of (B, d)."""
    difference = x - x[:, None]
    distance = difference.norm(dim=2)
    mean = distance.sum() / (distance > 0).sum().clamp(min=1)
    direction = F.normalize(difference, dim=2)
    return distance / mean.clamp(min=1e-12), direction @ direction.mT


def _pooled(maps: Tensor) -> Tensor:
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


class RelationLoss(LayerLoss):
    """`rkd` of one layer pair's maps, each averaged over its locations."""

    def __init__(self, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def target(self, teacher: Tensor) -> Tensor:
        return _pooled(teacher)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return rkd(_pooled(student), target, self.distance_weight, self.angle_weight)

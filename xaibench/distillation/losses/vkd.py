"""VkD: pooled features, mapped orthogonally onto the teacher's normalised ones. CVPR 2024, arXiv 2403.06213."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from xaibench.distillation.losses.layer import LayerLoss, check_maps
from xaibench.errors import ModelError
from xaibench.models.maps import Shape

__all__ = ["VkDLoss", "vkd"]


def vkd(projected: Tensor, teacher: Tensor) -> Tensor:
    """smooth L1(P pool(h_S), t), mean over channels: (B, d) twice -> (B,); t are layer-normalised teacher features."""
    check_maps(projected, teacher, "VkD")
    return F.smooth_l1_loss(projected, teacher, reduction="none").mean(1)


class VkDLoss(LayerLoss):
    """`vkd` with P a learned d x k matrix of orthonormal columns; raises ModelError where k > d."""

    def __init__(self, teacher: Shape, student: Shape) -> None:
        super().__init__()
        d, k = teacher[0], student[0]
        if k > d:
            raise ModelError(
                f"VkD needs at most as many student channels as teacher channels, got {k} for {d}: pair other layers"
            )
        # Householder's map, the default for a tall matrix, becomes 0 under weight decay.
        self.projection = parametrizations.orthogonal(nn.Linear(k, d, bias=False), orthogonal_map="cayley")

    def target(self, teacher: Tensor) -> Tensor:
        pooled = teacher.mean((2, 3))
        return F.layer_norm(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), pooled.shape[1:])

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            pooled = student.mean((2, 3)).to(self.projection.weight.dtype)  # type: ignore[arg-type]
            return vkd(self.projection(pooled), target)

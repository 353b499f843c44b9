"""VID: the teacher's maps as a Gaussian around what is regressed from the student's. arXiv 1904.05835."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.distillation.losses.layer import LayerLoss, check_maps
from xaibench.models.maps import Shape, common_size, pool_to

__all__ = ["VIDLoss", "vid"]

_EPSILON = 1e-5


def vid(mean: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    """mean of 0.5 [(m - h_T)^2 / v + log v] over channels and locations: (B, d, H, W) twice, (d,) -> (B,).

    v = softplus(scale) + 1e-5 is the variance of each channel; the value may be negative.
    """
    check_maps(mean, teacher, "VID")
    mean, teacher = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (mean, teacher))
    variance = (F.softplus(scale) + _EPSILON)[:, None, None]
    return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean((1, 2, 3))


class VIDLoss(LayerLoss):
    """`vid` behind a learned regressor: three 1x1 convolutions without bias, ReLU between them.

    learned_scale  False keeps each channel's variance at its initial value of 5, as SubDistill's code does on a GPU
    """

    def __init__(self, teacher: Shape, student: Shape, variance: float = 5.0, learned_scale: bool = True) -> None:
        super().__init__()
        self.size = common_size(teacher, student)
        d = teacher[0]
        self.regressor = nn.Sequential(
            nn.Conv2d(student[0], d, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(d, d, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(d, d, kernel_size=1, bias=False),
        )
        scale = math.log(math.expm1(variance - _EPSILON))
        self.scale = nn.Parameter(torch.full((d,), scale), requires_grad=learned_scale)

    def target(self, teacher: Tensor) -> Tensor:
        return pool_to(teacher, self.size)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        return vid(self.regressor(pool_to(student, self.size)), target, self.scale)

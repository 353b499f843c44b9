"""Attention transfer: where a layer is active. Source: Zagoruyko and Komodakis 2017, arXiv 1612.03928."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.layer import LayerLoss, check_maps
from xaibench.models.maps import Shape, common_size, pool_to

__all__ = ["AttentionLoss", "attention_map", "attention_transfer"]


def attention_map(maps: Tensor) -> Tensor:
    """q = mean_c h_c^2, scaled to unit length over the locations: (B, d, H, W) -> (B, H W)."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.normalize((maps * maps).mean(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (q_S - q_T)^2 over locations, of two attention maps (B, H W) -> (B,), at most 4 / (H W)."""
    check_maps(student, teacher, "attention transfer")
    return (student - teacher).square().mean(1)


class AttentionLoss(LayerLoss):
    """`attention_transfer` of one layer pair; the larger of the two maps is pooled to the smaller before squaring."""

    def __init__(self, teacher: Shape, student: Shape) -> None:
        super().__init__()
        self.size = common_size(teacher, student)

    def target(self, teacher: Tensor) -> Tensor:
        return attention_map(pool_to(teacher, self.size))

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        return attention_transfer(attention_map(pool_to(student, self.size)), target)

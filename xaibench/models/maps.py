"""Sizes of feature maps, and how two maps of different sizes are brought to one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Shape", "common_size", "pool_to"]

Shape = tuple[int, int, int]
"""Channels, height, width."""


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool maps (B, d, H, W) down to `size` in each direction where they are larger."""
    h, w = min(maps.shape[2], size[0]), min(maps.shape[3], size[1])
    return maps if (h, w) == tuple(maps.shape[2:]) else F.adaptive_avg_pool2d(maps, (h, w))


def common_size(teacher: Shape, student: Shape) -> tuple[int, int]:
    """The smaller height and the smaller width of two layers: what both are pooled to."""
    return min(teacher[1], student[1]), min(teacher[2], student[2])

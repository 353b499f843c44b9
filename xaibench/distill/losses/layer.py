"""What all losses on a pair of layers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.errors import ConfigError

__all__ = ["LayerLoss", "Shape", "check_maps", "check_samples", "common_size", "pool_to"]

Shape = tuple[int, int, int]  # channels, height, width


class LayerLoss(nn.Module, ABC):
    """The loss between one teacher layer and one student layer, with what is learned for it."""

    @abstractmethod
    def target(self, teacher: Tensor) -> Tensor:
        """What the loss needs of the teacher's maps (B, d, H, W): (B, ...), the same at every step, fit for a cache."""

    @abstractmethod
    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Student maps (B, k, H, W) and what `target` gave -> one loss a sample, (B,)."""


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool maps (B, d, H, W) down to `size` in each direction where they are larger."""
    h, w = min(maps.shape[2], size[0]), min(maps.shape[3], size[1])
    return maps if (h, w) == tuple(maps.shape[2:]) else F.adaptive_avg_pool2d(maps, (h, w))


def common_size(teacher: Shape, student: Shape) -> tuple[int, int]:
    """The smaller height and the smaller width of two layers: what both are pooled to."""
    return min(teacher[1], student[1]), min(teacher[2], student[2])


def check_maps(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse a student's and a teacher's tensors of different shapes."""
    if student.shape != teacher.shape:
        raise ConfigError(
            f"{what}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree: "
            "give both of the same samples, pooled to one size"
        )


def check_samples(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse a student's and a teacher's batch of different lengths."""
    if len(student) != len(teacher):
        raise ConfigError(
            f"{what} needs the same samples of both, got {len(student)} of the student, {len(teacher)} of the teacher"
        )

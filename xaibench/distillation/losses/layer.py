"""What all losses on a pair of layers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.errors import ConfigError

__all__ = ["LayerLoss", "check_maps", "check_samples", "squared_length"]


class LayerLoss(nn.Module, ABC):
    """The loss between one teacher layer and one student layer, with what is learned for it."""

    @abstractmethod
    def target(self, teacher: Tensor) -> Tensor:
        """What the loss needs of the teacher's maps (B, d, H, W): (B, ...), the same at every step, fit for a cache."""

    @abstractmethod
    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Student maps (B, k, H, W) and what `target` gave -> one loss a sample, (B,)."""


class _SquaredLength(torch.autograd.Function):
    """Plain operations would write four more tensors of x's size, in float32, on the way back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, torch.float32)).square().sum(tuple(range(1, x.ndim)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * _over_samples((2 * gradient).to(x.dtype), x)

    @staticmethod
    def jvp(ctx: Any, along: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dtype = torch.promote_types(x.dtype, torch.float32)
        return 2 * (x.to(dtype) * along.to(dtype)).flatten(1).sum(1)


def _over_samples(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def squared_length(x: Tensor) -> Tensor:
    """||x_b||^2 of every sample, in float32 or better whatever the dtype of x: (B, ...) -> (B,)."""
    return _SquaredLength.apply(x)


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

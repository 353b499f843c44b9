"""Distillation of local logits: a logit loss on each cell of a coarse grid, heavier where cell and whole disagree.

Local logits come from `models.local_logits.local_logits`: (B, K, P), cell 0 is the global one where the scales hold 1.
Source: scale-decoupled distillation (SDD), Wei et al. 2024 (CVPR), arXiv 2403.13512.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaibench.errors import ConfigError

__all__ = ["cell_weights", "sdd"]


def cell_weights(teacher: Tensor, labels: Tensor) -> Tensor:
    """2 where the teacher's correctness on a cell differs from that on cell 0, else 1: (B, K, P), (B,) -> (B, P)."""
    correct = teacher.argmax(1) == labels[:, None]
    return 1.0 + (correct != correct[:, :1]).to(teacher.dtype)


def sdd(loss: Callable[[Tensor, Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean over cells of omega * loss(z_S, z_T, y): local logits (B, K, P) twice, labels (B,) -> (B,).

    loss  one value a row: (N, K), (N, K), (N,) -> (N,), such as `kd` or `dkd`
    """
    if student.shape != teacher.shape or student.ndim != 3:
        raise ConfigError(
            f"student and teacher must both give local logits (B, K, P), got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    b, k, p = student.shape
    if len(labels) != b:
        raise ConfigError(f"{b} images but {len(labels)} labels: give one of each")
    s, t = (z.transpose(1, 2).reshape(b * p, k) for z in (student, teacher))
    values = loss(s, t, labels.repeat_interleave(p)).view(b, p)
    return torch.mean(cell_weights(teacher, labels) * values, dim=1)

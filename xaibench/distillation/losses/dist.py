"""DIST: relations between a sample's classes and between a class's samples. Huang et al. 2022, arXiv 2205.10536."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.kd import check_logits

__all__ = ["dist"]


def dist(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> Tensor:
    """T^2 (beta (1 - r_b) + gamma (1 - mean_k r_k)): logits (B, K) twice -> (B,), between 0 and 2 T^2 (beta + gamma).

    r_b is Pearson's correlation of the two models' softmax(z/T) over the classes of sample b, r_k that over the samples
    of the batch for class k; a constant row or column has r = 0.
    """
    check_logits(student, teacher, temperature)
    p, q = (F.softmax(z / temperature, dim=1) for z in (student, teacher))
    within, across = 1 - _pearson(p, q), 1 - _pearson(p.T, q.T)
    return temperature**2 * (beta * within + gamma * across.mean())


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Of each row: (N, M) twice -> (N,)."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

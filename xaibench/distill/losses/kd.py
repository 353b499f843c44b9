"""Losses on logits, one value a sample, in nats."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import ConfigError

__all__ = ["cross_entropy", "kd"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y: (B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_T/T) || softmax(z_S/T)): (B, K), (B, K) -> (B,), at least 0.

    Source: Hinton et al. 2015, arXiv 1503.02531.

    >>> import torch
    >>> kd(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
    0.0
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    if student.shape != teacher.shape:
        raise ConfigError(f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} must agree")
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(1)

"""Cross-entropy with labels, and Hinton's distillation of logits; one value a sample, in nats."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import ConfigError

__all__ = ["check_logits", "cross_entropy", "kd", "standardised"]


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """-sum_k q_k log softmax(z)_k with q = (1 - smoothing) onehot(y) + smoothing / K: (B, K), (B,) -> (B,)."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_T/T) || softmax(z_S/T)): (B, K), (B, K) -> (B,), at least 0.

    Source: Hinton et al. 2015, arXiv 1503.02531.

    >>> import torch
    >>> kd(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])).item()
    0.0
    """
    check_logits(student, teacher, temperature)
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(1)


def standardised(logits: Tensor) -> Tensor:
    """Each sample's logits with mean 0 and standard deviation 1 over the K >= 2 classes: (B, K) -> (B, K).

    (z - mean z) / (s + 1e-7) with s^2 = sum (z - mean z)^2 / (K - 1), as in the public code.
    Source: Sun et al. 2024 (CVPR), arXiv 2403.01427.
    """
    mean, spread = logits.mean(1, keepdim=True), logits.std(1, keepdim=True)
    return (logits - mean) / (spread + 1e-7)


def check_logits(student: Tensor, teacher: Tensor, temperature: float, labels: Tensor | None = None) -> None:
    """Refuse logits of different shapes, labels that are not one a row, and a temperature that is not above 0."""
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    if student.shape != teacher.shape:
        raise ConfigError(
            f"student logits {tuple(student.shape)} and teacher logits {tuple(teacher.shape)} must agree: "
            "give both of the same samples and classes"
        )
    if labels is not None and len(labels) != len(student):
        raise ConfigError(f"{len(student)} rows of logits but {len(labels)} labels: give one of each")

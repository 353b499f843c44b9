"""Decoupled distillation, target class and rest apart: DKD and NKD; one value a sample, in nats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.kd import check_logits, cross_entropy
from xaibench.errors import ConfigError, unknown_name

__all__ = ["NKD_VARIANTS", "dkd", "nkd"]

NKD_VARIANTS = ("paper", "public")


def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD): logits (B, K) twice, labels (B,) -> (B,), at least 0.

    TCKD is KL(teacher || student) of the two-way split target / not target of softmax(z/T), NCKD that of the softmax
    over the K - 1 other classes. Source: Zhao et al. 2022, arXiv 2203.08679.
    """
    check_logits(student, teacher, temperature, labels)
    log_p, log_q = (F.log_softmax(z / temperature, dim=1) for z in (student, teacher))
    split_p, split_q = _split(log_p, labels), _split(log_q, labels)
    rest_p, rest_q = (F.log_softmax(_others(z / temperature, labels), dim=1) for z in (student, teacher))
    target = (split_q.exp() * (split_q - split_p)).sum(1)
    others = (rest_q.exp() * (rest_q - rest_p)).sum(1)
    return temperature**2 * (alpha * target + beta * others)


def nkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    gamma: float = 2.0,
    temperature: float = 4.0,
    variant: str = "paper",
) -> Tensor:
    """-q_y log p_y + gamma T^2 H(q^, p^): logits (B, K) twice, labels (B,) -> (B,).

    p, q are softmax(z) of student and teacher; p^, q^ softmax(z/T) over the K - 1 classes other than y ("paper"), or
    over all K ("public": what the public code of SDD and iCD computes). H is the cross-entropy, so the value is not 0
    for equal logits. Source: Yang et al. 2023, arXiv 2303.13005.
    """
    check_logits(student, teacher, temperature, labels)
    if variant not in NKD_VARIANTS:
        raise unknown_name("NKD variant", variant, NKD_VARIANTS)
    target = F.softmax(teacher, dim=1).gather(1, labels[:, None])[:, 0] * cross_entropy(student, labels)
    s, t = student / temperature, teacher / temperature
    if variant == "paper":
        s, t = _others(s, labels), _others(t, labels)
    others = -(F.softmax(t, dim=1) * F.log_softmax(s, dim=1)).sum(1)
    return target + gamma * temperature**2 * others


def _split(log_p: Tensor, labels: Tensor) -> Tensor:
    """log of (p_y, 1 - p_y): (B, K) -> (B, 2), the second by summing the others, which keeps small values exact."""
    target = log_p.gather(1, labels[:, None])
    return torch.cat([target, _others(log_p, labels).logsumexp(1, keepdim=True)], 1)


def _others(values: Tensor, labels: Tensor) -> Tensor:
    """The columns other than each row's label: (B, K) -> (B, K - 1)."""
    if values.shape[1] < 2:
        raise ConfigError(f"decoupled distillation needs at least 2 classes, got {values.shape[1]}")
    columns = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, columns + (columns >= labels[:, None]))

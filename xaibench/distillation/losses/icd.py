"""iCD: which cells of an image agree with each other, distilled scale by scale. Source: arXiv 2509.12553."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import ConfigError

__all__ = ["icd"]

_SIDES = {1: (1,), 5: (1, 2), 17: (1, 4), 21: (1, 2, 4)}
_WEIGHTS = {1: 1, 2: 2, 4: 3}


def icd(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """sum_m w_m sum_rows KL(softmax(G_m(T)/tau) || softmax(G_m(S)/tau)): (B, K, P) twice -> (B,), at least 0.

    With each cell's logits scaled to unit length over the classes, G_m = Z_m' Z_m holds the cosines between the m x m
    cells of one scale. w = (1/6, 2/6, 3/6) for the scales 1, 2, 4, (1/3, 2/3) for 1, 2 and (1/4, 3/4) for 1, 4.
    The temperature tau has no factor tau^2; the 1x1 scale gives 0.
    """
    if student.shape != teacher.shape or student.ndim != 3 or student.shape[2] not in _SIDES:
        raise ConfigError(
            f"student and teacher must both give local logits (B, K, P) with P in {sorted(_SIDES)}, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}")
    sides = _SIDES[student.shape[2]]
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    total = student.new_zeros(len(student))
    start = 0
    for side in sides:
        cells = slice(start, start + side * side)
        start += side * side
        if side == 1:
            continue
        log_p, log_q = (_similarity(z[:, :, cells], temperature) for z in (s, t))
        total = total + _WEIGHTS[side] * (log_q.exp() * (log_q - log_p)).sum((1, 2))
    return total / sum(_WEIGHTS[side] for side in sides)


def _similarity(unit: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(torch.einsum("bkp,bkq->bpq", unit, unit) / temperature, dim=2)

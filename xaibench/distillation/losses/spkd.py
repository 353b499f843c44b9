"""SPKD: which samples of a batch a layer finds alike. Source: Tung and Mori 2019, arXiv 1907.09682."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.layer import LayerLoss, check_samples
from xaibench.errors import unknown_name

__all__ = ["SPKD_VARIANTS", "SimilarityLoss", "similarity_preserving"]

SPKD_VARIANTS = ("squared", "norm")


def similarity_preserving(student: Tensor, teacher: Tensor, variant: str = "squared") -> Tensor:
    """||G_T - G_S||_F^2 / B^2 over a batch: features (B, ...) twice -> (B,), whose mean it is.

    G is the Gram matrix of the flattened features, each row scaled to unit length. The value at b is row b's part.

    variant  "squared" (the paper, RepDistiller); "norm" does not square (SubDistill's code): the same for all samples
    """
    check_samples(student, teacher, "SPKD")
    if variant not in SPKD_VARIANTS:
        raise unknown_name("SPKD variant", variant, SPKD_VARIANTS)
    b = len(student)
    difference = _gram(teacher) - _gram(student)
    if variant == "norm":
        return (difference.norm() / b**2).expand(b)
    return difference.square().sum(1) / b


def _gram(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return F.normalize(flat @ flat.T, dim=1)


class SimilarityLoss(LayerLoss):
    """`similarity_preserving` of one layer pair, each model's maps at their own size."""

    def __init__(self, variant: str = "squared") -> None:
        super().__init__()
        self.variant = variant

    def target(self, teacher: Tensor) -> Tensor:
        return teacher

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            return similarity_preserving(student, target, self.variant)

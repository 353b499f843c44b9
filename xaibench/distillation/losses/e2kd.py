"""e2KD: the student shall explain the teacher's prediction as the teacher does. arXiv 2402.03119 (ECCV 2024)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.layer import check_samples
from xaibench.errors import ConfigError
from xaibench.models.maps import pool_to

__all__ = ["e2kd", "grad_cam"]


def grad_cam(maps: Tensor, weight: Tensor) -> Tensor:
    """Grad-CAM of every class behind global average pooling and a linear layer: (B, d, H, W), (K, d) -> (B, K, H, W).

    relu(sum_c alpha_c h_c) with alpha_c the mean gradient of the class' logit at channel c, which is W_kc / (H W) here:
    exact without a backward pass, hence differentiable once more at the cost of a product.
    Source: Selvaraju et al. 2017, arXiv 1610.02391.
    """
    if maps.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"maps have {maps.shape[1]} channels but the linear layer takes {weight.shape[1]}: give the maps "
            "that are pooled before it"
        )
    return F.relu(F.conv2d(maps, weight[:, :, None, None] / (maps.shape[2] * maps.shape[3])))


def e2kd(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of two explanations: (B, H, W) and (B, h, w) -> (B,), from 0 to 1 for Grad-CAM; the larger is pooled.

    Where either is zero everywhere the cosine is taken as 0, hence the loss as 1 without a gradient.
    """
    check_samples(student, teacher, "e2KD")
    size = (min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2]))
    s, t = (pool_to(maps[:, None], size).flatten(1) for maps in (student, teacher))
    return 1 - F.cosine_similarity(s, t, dim=1)

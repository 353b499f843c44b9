"""How alike two sets of features are."""

from __future__ import annotations

import torch
from torch import Tensor

from xaibench.errors import DataError

__all__ = ["linear_cka"]


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment ||A'B||_F^2 / (||A'A||_F ||B'B||_F), columns centred, in float64; in [0, 1].

    a, b  features of the same N samples, (N, d) or (N, C, H, W); maps are flattened to (N, C*H*W). (To take locations
          as samples, pass `h.movedim(1, -1).flatten(0, -2)`.)

    1 where one is a rotation, scaling or shift of the other; NaN where features are constant over samples. Computed
    from whichever is smaller, the d x d or the N x N products. Raises DataError for other shapes, different N, N < 2,
    or values that are not finite. Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x, y = _centred(a), _centred(b)
    if len(x) != len(y):
        raise DataError(f"features of {len(x)} and {len(y)} samples: CKA needs the same samples in both")
    if len(x) < max(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        shared, own = (k * m).sum(), k.norm() * m.norm()
    else:
        shared, own = (x.T @ y).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(shared / own) if own > 0 else float("nan")


def _centred(features: Tensor) -> Tensor:
    if features.ndim not in (2, 4) or len(features) < 2:
        raise DataError(f"features must have shape (N, d) or (N, C, H, W) with N >= 2, got {tuple(features.shape)}")
    x = features.detach().double().flatten(1)
    if not bool(torch.isfinite(x).all()):
        raise DataError("features contain NaN or infinite values: check the model and its input")
    x = x - x.mean(dim=0)
    # What remains of a constant column after rounding is not variation.
    peak = features.detach().double().abs().max()
    return torch.where(x.abs() > 1e-14 * peak, x, torch.zeros_like(x)) / peak if peak > 0 else x

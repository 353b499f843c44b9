"""Weights of training samples from their influence on the validation loss, see `distill.influence`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import ConfigError, DataError, unknown_name

__all__ = ["TRANSFORMS", "influence_weights"]


def _sigmoid(scores: Tensor, kappa: float) -> Tensor:
    std = (scores.max() - scores.min()) * _unit(scores).std(correction=0)  # never 0, nor lost to rounding
    # n softmax(log w) is w / mean w, and stays defined where every sigmoid underflows.
    return len(scores) * torch.softmax(F.logsigmoid(-kappa * scores / std), 0)


def _exp_minmax(scores: Tensor, kappa: float) -> Tensor:
    return (kappa * (2 * _unit(scores) - 1)).exp()


def _unit(scores: Tensor) -> Tensor:
    return (scores - scores.min()) / (scores.max() - scores.min())


TRANSFORMS: dict[str, Callable[[Tensor, float], Tensor]] = {"sigmoid": _sigmoid, "exp_minmax": _exp_minmax}
"""How influences (n,), not all equal, and kappa become weights (n,)."""


def influence_weights(scores: Tensor, *, transform: str = "sigmoid", kappa: float = 1.0) -> Tensor:
    """Influences (n,) -> sample weights (n,), at least 0.

    sigmoid     w_i = 2 sigmoid(-kappa I_i / std I), then divided by their mean: helpful samples above harmful ones,
                mean 1, indifferent to the scale of I
    exp_minmax  w_i = exp(kappa m_i), m = I brought linearly to [-1, 1]: with kappa 1 the public code's, which raises
                the weight of *harmful* samples and does not normalise; for comparison with it only

    Where all influences are equal, no sample is better than another: all weights are 1. kappa 0 gives 1 too.
    Raises DataError for no scores or scores that are not finite, ConfigError for kappa below 0.

    >>> influence_weights(torch.tensor([1.0, 1.0, -2.0])) > 1
    tensor([False, False,  True])
    """
    if transform not in TRANSFORMS:
        raise unknown_name("influence transform", transform, TRANSFORMS)
    if not 0 <= kappa < math.inf:
        raise ConfigError(f"kappa must be at least 0, got {kappa}")
    if scores.ndim != 1 or len(scores) == 0:
        raise DataError(f"influences must have the shape (n,), n > 0, got {tuple(scores.shape)}")
    broken = int((~scores.isfinite()).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(scores)} influences are not finite: raise the damping or lower the learning rate"
        )
    if scores.min() == scores.max():
        return torch.ones_like(scores)
    return TRANSFORMS[transform](scores.double(), kappa).to(scores.dtype)

"""The influence of training samples on a validation loss, and sample weights made of it (the arithmetic of KD-AIF).

    I_i = -grad L_i' (G + lambda I)^-1 g        L_i  the loss of training sample i
                                                g    the gradient of the *mean* validation loss
                                                G    the Gauss-Newton matrix of the mean training loss
    w_i = 2 sigmoid(-kappa I_i / std I), brought to mean 1

I_i > 0: a larger weight for sample i raises the validation loss, the sample is harmful. One `solve` serves all samples:
s = (G + lambda I)^-1 g, then I_i = -grad L_i' s, which is a derivative along one direction and needs no gradient a
sample.

    gradient = mean_gradient(on_labels, params, validation)
    solution = solve(on_teacher, params, training, gradient)
    weights = influence_weights(influence_scores(on_teacher, params, training, solution.vector))

Source: arXiv 2501.02705. The formulas in the body of that paper could not be read: this is a reconstruction from its
description and its public code, with classical influence functions (Koh and Liang 2017, arXiv 1703.04730) and the
generalised Gauss-Newton matrix (Schraudolph 2002) where those are silent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaibench.errors import ConfigError, DataError, unknown_name

__all__ = [
    "TRANSFORMS",
    "Batch",
    "Batches",
    "Params",
    "Problem",
    "Solution",
    "gauss_newton_product",
    "influence_scores",
    "influence_weights",
    "mean_gradient",
    "solve",
]

Params = dict[str, Tensor]
"""Parameter name -> tensor, as in `dict(model.named_parameters())`; gradients and directions have the same form."""

Batch = tuple[Tensor, Any]
"""Inputs (B, ...) and whatever else the losses need (labels, the teacher's summary), in the same order."""

Batches = Callable[[], Iterable[Batch]]
"""Called once a pass: a solve goes over the samples many times. Every pass must yield the same samples."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A network and losses that torch.func can differentiate.

    outputs  (params, inputs) -> all that the losses read of the network: a tensor, or a dict or tuple of tensors
             (logits, tapped layers), each (B, ...)
    losses   (outputs, the second part of the batch) -> one loss a sample, (B,)

    The outputs of a sample must not depend on the others in its batch: it is the caller's part to put the network into
    evaluation mode (batch norm with running statistics). For less than float32, cast parameters, buffers and inputs
    inside `outputs`, and what it returns back again; under autocast torch cannot differentiate batch norm forwards.
    """

    outputs: Callable[[Params, Tensor], Any]
    losses: Callable[[Any, Any], Tensor]

    def sample_losses(self, outputs: Any, batch: Batch) -> Tensor:
        """The losses (B,) of `outputs`. Raises DataError where they are not one a sample."""
        x, extra = batch
        losses = self.losses(outputs, extra)
        if losses.shape != (len(x),):
            raise DataError(
                f"influence needs one loss a sample, ({len(x)},), got {tuple(losses.shape)}: do not average the losses"
            )
        return losses


@dataclass(frozen=True, eq=False)
class Solution:
    """What conjugate gradients left: s, its relative residual ||(G + lambda I) s - g|| / ||g||, steps taken, lambda."""

    vector: Params
    residual: float
    iterations: int
    damping: float


@torch.no_grad()
def mean_gradient(problem: Problem, params: Params, batches: Batches) -> Params:
    """The gradient of the mean loss over all samples. Raises DataError for no samples."""

    def term(batch: Batch) -> Params:
        return grad(lambda p: problem.sample_losses(problem.outputs(p, batch[0]), batch).sum())(params)

    return _mean(batches, term)


@torch.no_grad()
def gauss_newton_product(problem: Problem, params: Params, batches: Batches, vector: Params) -> Params:
    """G v = mean over samples of J_i' H_i J_i v.

    J_i is the Jacobian of a sample's outputs with respect to the parameters, H_i the Hessian of its loss with respect
    to its outputs. G is positive semi-definite where losses are convex in the outputs (KD, cross-entropy, squares).
    A forward-mode and a reverse-mode pass: the arithmetic of two training steps, the memory of one batch.
    """

    def term(batch: Batch) -> Params:
        def outputs(p: Params) -> Any:
            return problem.outputs(p, batch[0])

        at, along = _jvp(outputs, params, vector)
        _, curved = _jvp(grad(lambda o: problem.sample_losses(o, batch).sum()), at, along)
        pull_back = vjp(outputs, params)[1]
        return pull_back(curved)[0]

    return _mean(batches, term)


def solve(
    problem: Problem,
    params: Params,
    batches: Batches,
    gradient: Params,
    *,
    damping: float = 0.01,
    iterations: int = 20,
    tolerance: float = 0.01,
    advance: Callable[[], None] | None = None,
) -> Solution:
    """Conjugate gradients on (G + lambda I) s = g, with G of `problem` on the (training) `batches`.

    damping     lambda = damping ||G g|| / ||g||
    iterations  the most steps, each one `gauss_newton_product`; a part of the samples is often enough for G
    tolerance   ends when the relative residual is as small
    advance     called after each step, for a progress bar

    Why damping is relative: ||G g|| / ||g|| comes free with the first step, and is a step of power iteration towards
    the largest eigenvalue. Its scale follows the loss weights, temperature and width of a network, over which the
    eigenvalues vary by orders of magnitude, so that one value serves all. The default leaves the curvature of the
    leading directions as it is and keeps the condition number in the hundreds, where 20 steps are about enough in
    float32. (The mean eigenvalue would be no measure: with more parameters than samples x outputs most are zero.)

    A loss that is not convex in the outputs can have directions of negative curvature. Where one turns up the
    iteration ends with what it has, as in truncated Newton methods (at the first step: g / lambda).

    Raises ConfigError for options out of range, DataError for a gradient or product that is not finite.
    """
    for name, value in (("damping", damping), ("iterations", iterations)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} of the influence solve must be above 0, got {value}")
    if not tolerance >= 0:
        raise ConfigError(f"tolerance of the influence solve must be at least 0, got {tolerance}")
    squared = start = _dot(gradient, gradient)
    if not math.isfinite(start):
        raise DataError("the validation gradient is not finite: train with a lower learning rate or check the images")
    vector = {name: torch.zeros_like(g) for name, g in gradient.items()}
    if start == 0:
        return Solution(vector, 0.0, 0, damping)
    rest = direction = gradient
    shift = 0.0
    for step in range(iterations):
        image = gauss_newton_product(problem, params, batches, direction)
        if step == 0:
            shift = damping * (math.sqrt(_dot(image, image) / start) or 1.0)
        image = _add(image, shift, direction)
        curvature = _dot(direction, image)
        if not math.isfinite(curvature):
            raise DataError(
                f"the Gauss-Newton product is not finite at step {step + 1} of the influence solve: "
                "compute it in float32, or train with a lower learning rate"
            )
        if curvature <= 0:
            vector = vector if step else {name: g / shift for name, g in gradient.items()}
            return Solution(vector, math.sqrt(squared / start), step, shift)
        vector = _add(vector, squared / curvature, direction)
        rest = _add(rest, -squared / curvature, image)
        before, squared = squared, _dot(rest, rest)
        if advance is not None:
            advance()
        if squared <= tolerance**2 * start:
            break
        direction = _add(rest, squared / before, direction)
    return Solution(vector, math.sqrt(squared / start), step + 1, shift)


@torch.no_grad()
def influence_scores(problem: Problem, params: Params, batches: Batches, vector: Params) -> Tensor:
    """I_i = -grad L_i' s for all samples, in their order: (n,), positive for harmful samples.

    The derivative of every L_i along s in one forward-mode pass: exact, without a gradient a sample, in the memory of
    one batch. Raises DataError for no samples.
    """
    parts = []
    for batch in batches():

        def losses(p: Params, batch: Batch = batch) -> Tensor:
            return problem.sample_losses(problem.outputs(p, batch[0]), batch)

        parts.append(-_jvp(losses, params, vector)[1])
    if not parts:
        raise _no_samples()
    return torch.cat(parts)


def _mean(batches: Batches, term: Callable[[Batch], Params]) -> Params:
    total: Params = {}
    samples = 0
    for batch in batches():
        part = term(batch)
        total = _add(total, 1.0, part) if total else part
        samples += len(batch[0])
    if samples == 0:
        raise _no_samples()
    return {name: value / samples for name, value in total.items()}


def _jvp(function: Callable[[Any], Any], at: Any, along: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():  # torch scripts its own decompositions at the first use of forward mode
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is", DeprecationWarning)
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            return torch.func.jvp(function, (at,), (along,))[:2]


def _no_samples() -> DataError:
    return DataError("no samples to compute influences from: the batches must yield at least one at every call")


def _add(a: Params, factor: float, b: Params) -> Params:
    return {name: torch.add(value, b[name], alpha=factor) for name, value in a.items()}


def _dot(a: Params, b: Params) -> float:
    return sum(float(torch.dot(value.double().flatten(), b[name].double().flatten())) for name, value in a.items())


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

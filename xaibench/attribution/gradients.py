"""Explanations through captum from gradients: input x gradient, and integrated gradients with measured completeness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import captum.attr
import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps
from xaibench.attribution.baselines import as_reference, check_baseline, make_baselines
from xaibench.attribution.checks import Check
from xaibench.attribution.completeness import explained_difference, judge_residual, residual_of
from xaibench.attribution.differentiation import checked_gradient, derivative_checks, explained_by, gradient_checks
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError
from xaibench.options import check_types

__all__ = ["FromGradients", "InputXGradient", "IntegratedGradients"]

COMPLETENESS_TOLERANCE = 0.02


class FromGradients:
    """What explainers have in common whose maps owe no sum: only the gradient itself can be checked."""

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Every image will do."""

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The gradient exists, is finite, is not zero everywhere on all of the images, and is the derivative."""
        gradient = checked_gradient(model, x, target)
        return (*gradient_checks(gradient, "the image"), *derivative_checks(model, x, target))

    def judge(self, residual: Tensor | None) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """Nothing beyond what `validate` measured."""
        return (), ()


@dataclass(frozen=True)
class InputXGradient(FromGradients):
    """R_i = x_i * df/dx_i, f = z_y - z_r, x in normalised space (captum).

    To first order, what f loses when the image fades to the data's mean colour. Sum R = f(x) only where f is linear
    and has no bias, so no sum is checked.

    Source: Shrikumar et al. 2016, arXiv 1605.01713.
    """

    name: ClassVar[str] = "input-x-gradient"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, points: int) -> Maps:
        """R (N, C, H, W) of one batch, in a single pass; no references."""
        relevance: Tensor = captum.attr.InputXGradient(explained_by(model)).attribute(
            x.detach().requires_grad_(),
            additional_forward_args=(target.label.to(x.device), target.contrast.to(x.device)),
        )
        return Maps(relevance.detach())


@dataclass(frozen=True)
class IntegratedGradients:
    """IG_i = (x_i - b_i) * integral over a in [0, 1] of df/dx_i at b + a (x - b), f = z_y - z_r (captum).

    Gauss-Legendre quadrature; sum_i IG_i = f(x) - f(b) in the limit ("completeness").

    steps      points of the quadrature
    max_steps  images off by more than 2% of |f(x) - f(b)| are done again with the steps doubled, up to this many;
               those that remain off are flagged
    baseline   b: "black" (pixel 0), "mean" (0 in normalised space), "blur" (the image blurred), "uniform" (the mean
               over 10 noise images, at 10 times the cost) or a .safetensors file; see `make_baselines`
    seed       of "uniform"

    Source: Sundararajan et al. 2017; 50 steps as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "ig"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    steps: int = 50
    max_steps: int = 400
    baseline: str = "black"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.steps < 1:
            raise ConfigError(f"integrated gradients need at least 1 step, got steps={self.steps}")
        if self.max_steps < self.steps:
            raise ConfigError(f"max_steps={self.max_steps} is below steps={self.steps}: raise it or lower steps")
        check_baseline(self.baseline)

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse a stored baseline that does not fit the images."""
        make_baselines(self.baseline, x[:1], preprocessing, self.seed)

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The gradient exists and is the derivative; completeness is measured on every image, see `judge`."""
        return derivative_checks(model, x, target)

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, points: int) -> Maps:
        """IG (N, C, H, W) of one batch, `points` places on the paths in a pass; reference: `baseline`.

        residual: |sum IG - (f(x) - f(b))| / |f(x) - f(b)|, f(b) being the mean over the baselines
        """
        baselines = make_baselines(self.baseline, x, preprocessing, self.seed)
        wanted = explained_difference(model, x, baselines, target, points)
        starts = baselines.expand(-1, len(x), -1, -1, -1)
        steps = self.steps
        relevance = _integrate(model, x, target, starts, steps, points)
        residual = residual_of(relevance, wanted)
        while steps < self.max_steps and bool((again := ~(residual <= COMPLETENESS_TOLERANCE)).any()):
            steps = min(2 * steps, self.max_steps)
            index = again.nonzero().flatten()
            here = index.to(x.device)
            part = _integrate(model, x[here], target.take(index), starts[:, here], steps, points)
            relevance[here] = part
            residual[index] = residual_of(part, wanted[index])
        return Maps(relevance, {"baseline": as_reference(baselines)}, residual)

    def judge(self, residual: Tensor | None) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """At most half of the images may be incomplete (off by more than 2%); those get flagged and no score.

        A single image that is incomplete is refused.
        """
        some = residual is not None and not bool((residual <= COMPLETENESS_TOLERANCE).all())
        off = f"off by more than {COMPLETENESS_TOLERANCE:.0%} after {self.max_steps} steps"
        off += ": raise max_steps" * some
        return judge_residual(residual, COMPLETENESS_TOLERANCE, off)


def _integrate(model: nn.Module, x: Tensor, target: Target, starts: Tensor, steps: int, points: int) -> Tensor:
    method = captum.attr.IntegratedGradients(explained_by(model))
    total = torch.zeros_like(x)
    for start in starts:
        total += method.attribute(
            x,
            baselines=start,
            additional_forward_args=(target.label.to(x.device), target.contrast.to(x.device)),
            n_steps=steps,
            internal_batch_size=max(points, len(x)),
        ).detach()
    return total / len(starts)

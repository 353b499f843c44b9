"""Integrated gradients to a stated accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps, PlainPasses, logits_of
from xaibench.attribution.baselines import UNIFORM_DRAWS, as_reference, check_baseline, make_baselines
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check
from xaibench.attribution.completeness import explained_difference, judge_images, residual_of, rounding_of
from xaibench.attribution.differentiation import derivative_checks, explained_by, value_and_gradient
from xaibench.attribution.path_integral import FIRST_NODES, integrate
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError
from xaibench.options import check_types

__all__ = ["IntegratedGradients"]

RESIDUAL_TOLERANCE = 0.01
_HEATMAPS = 4


@dataclass(frozen=True)
class IntegratedGradients(PlainPasses):
    """IG_i = (x_i - b_i) * integral over a in [0, 1] of df/dx_i at b + a (x - b), f = z_y - z_r.

    By an adaptive trapezoid rule that estimates its own error (see `path_integral.integrate`): most images need 33 to
    100 gradients for 2%. sum_i IG_i = f(x) - f(b) in the limit ("completeness"), so |sum IG - (f(x) - f(b))| / sum |IG|
    bounds a map's relative L1 error from below: it shall be at most 1%, or half of the tolerance, if that is more. It
    bounds nothing from above, and divided by |f(x) - f(b)|, which is small beside sum |IG|, it would say nothing at
    all. Maps that end above either are flagged and get no score.

    tolerance  the largest estimated relative L2 error of a heatmap, > 0
    budget     the most gradients an image, at least 33; ten times as many with the baseline "uniform"
    steps      None; or the points of captum's Gauss-Legendre rule, which estimates no error: only the residual is
               checked then
    baseline   b: "black" (pixel 0), "mean" (0 in normalised space), "blur" (the image blurred), "uniform" (the mean
               over 10 noise images, at 10 times the cost) or a .safetensors file; see `make_baselines`
    seed       of "uniform"

    Source: Sundararajan et al. 2017, arXiv 1703.01365.
    """

    name: ClassVar[str] = "ig"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    tolerance: float = 0.02
    budget: int = 257
    steps: int | None = None
    baseline: str = "black"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 < self.tolerance < float("inf"):
            raise ConfigError(f"tolerance must be a finite number > 0, got {self.tolerance}: 0.02 is the default")
        if self.budget < FIRST_NODES:
            raise ConfigError(
                f"budget={self.budget} is below the {FIRST_NODES} gradients that integrated gradients begin with: "
                f"give {FIRST_NODES} or more"
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"integrated gradients need at least 1 step, got steps={self.steps}")
        given = [name for name in ("tolerance", "budget") if getattr(self, name) != getattr(type(self), name)]
        if self.steps is not None and given:
            raise ConfigError(
                f"steps={self.steps} asks for a fixed rule, which has no {given[0]}: leave out steps or {given[0]}"
            )
        check_baseline(self.baseline)

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse a stored baseline that does not fit the images."""
        make_baselines(self.baseline, x[:1], preprocessing, self.seed)

    @property
    def _largest_residual(self) -> float:
        return max(RESIDUAL_TOLERANCE, self.tolerance / 2)

    @property
    def kept(self) -> int:  # type: ignore[override]
        """The gradients at all points of an image's paths; the paths' directions, the map and what it is judged by."""
        if self.steps is not None:
            return 0
        paths = UNIFORM_DRAWS if self.baseline == "uniform" else 1
        return paths * (self.budget + 1) + _HEATMAPS

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The gradient exists and is the derivative; accuracy is measured on every image, see `judge`."""
        return derivative_checks(model, x, target)

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """IG (N, C, H, W) of one batch, `room.points` places on the paths in a pass; reference: `baseline`.

        Where `room` is too small to keep all gradients of a batch, some are taken again: slower, with the same result.

        Measured for each image: `error_estimate` (relative L2, but for fixed steps), `residual` (relative to
        sum |IG|), `gradients` (how many were taken).
        """
        baselines = make_baselines(self.baseline, x, preprocessing, self.seed)
        starts = baselines.expand(-1, len(x), -1, -1, -1)
        references = {"baseline": as_reference(baselines)}
        if self.steps is not None:
            relevance = _by_captum(model, x, target, starts, self.steps, room.points)
            owed = explained_difference(model, x, baselines, target, room.points)
            gradients = torch.full((len(x),), self.steps * len(starts), dtype=torch.float64)
            measured = {"residual": residual_of(relevance, *owed), "gradients": gradients}
            return Maps(relevance, references, measured)
        rounding = rounding_of(torch.cat([logits_of(model, part) for part in x.split(room.points)]))
        result = integrate(
            lambda at, image: value_and_gradient(model, at, target.take(image.cpu())),
            x,
            starts,
            self.tolerance,
            self.budget,
            room.points,
            self._largest_residual,
            rounding,
            room.tensors,
        )
        measured = {
            "error_estimate": result.error.cpu(),
            "residual": residual_of(result.value, result.difference.cpu(), rounding),
            "gradients": result.gradients.cpu().double(),
        }
        return Maps(result.value, references, measured)

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """At most half of the images may be off; those get flagged and no score. A single image that is, is refused."""
        most = self._largest_residual
        off, what, remedy = ~(measured["residual"] <= most), f"a residual above {most:.2g} of sum |IG|", "raise steps"
        if self.steps is None:
            off |= ~(measured["error_estimate"] <= self.tolerance)
            what, remedy = f"an estimated error above {self.tolerance:.2g} or {what}", "raise budget or tolerance"
        return judge_images(off, f"with {what}", remedy)

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """Estimated error, residual and cost."""
        middle = {name: float(value.nanmedian()) for name, value in measured.items()}
        error = "" if self.steps is not None else f"estimated error {middle['error_estimate']:.1%} of a map, "
        return f"{error}residual {middle['residual']:.1g} of sum |IG|, {middle['gradients']:.0f} gradients an image"


def _by_captum(model: nn.Module, x: Tensor, target: Target, starts: Tensor, steps: int, points: int) -> Tensor:
    import captum.attr

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

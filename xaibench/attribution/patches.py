"""Explanations by covering parts of the image, through captum: no gradients needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps, NothingMeasured, PlainPasses
from xaibench.attribution.baselines import as_reference, check_baseline, make_baselines
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check
from xaibench.attribution.completeness import explained_difference, judge_images, residual_of
from xaibench.attribution.differentiation import explained_by
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.options import check_types

if TYPE_CHECKING:
    import captum.attr

__all__ = ["Occlusion", "ShapleySampling", "patch_numbers"]

EFFICIENCY_TOLERANCE = 1e-3
SMALL_IMAGE = 64


@dataclass(frozen=True)
class ShapleySampling(PlainPasses):
    """R_p = mean over random orders of f(patches before p, and p) - f(patches before p), f = z_y - z_r (captum).

    Patches that are not there show the baseline b. A patch's value is spread evenly over its pixels and channels, so
    that sum R = f(x) - f(b) for any number of samples ("efficiency"). The orders are the same for all images and
    models. Needs samples x patches forward passes an image.

    patch     pixels a side; none: 8, and 4 for images with a side below 64. Patches at the right and lower border may
              be smaller
    samples   orders
    baseline  b, by a name of BASELINES; "uniform" takes the mean over 10 noise images, at 10 times the cost
    seed      of the orders and of "uniform"

    Source: Castro et al. 2009 (sampling); patches of 8, 25 samples as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "shapley"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    patch: int | None = None
    samples: int = 25
    baseline: str = "black"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        _check_at_least_one(patch=self.patch, samples=self.samples)
        check_baseline(self.baseline)

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse patches larger than the images and a stored baseline that does not fit them."""
        _side(self.patch, x)
        make_baselines(self.baseline, x[:1], preprocessing, self.seed)

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """None ahead of time: efficiency is measured on every image, see `judge`."""
        return ()

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """R (N, C, H, W) of one batch, `room.points` covered images in a pass; reference: `baseline`.

        Measured for each image: `residual` = |sum R - (f(x) - f(b))| / sum |heatmap|, f(b) being the mean over the
        baselines.
        """
        baselines = make_baselines(self.baseline, x, preprocessing, self.seed)
        grid = patch_numbers(x, _side(self.patch, x))
        count = int(grid.max()) + 1
        generator = torch.Generator().manual_seed(self.seed)
        orders = [torch.randperm(count, generator=generator).tolist() for _ in range(self.samples)]
        import captum.attr

        method = captum.attr.ShapleyValueSampling(explained_by(model))
        method.permutation_generator = lambda _features, _samples: iter(orders)
        values = _mean_over(method, x, target, baselines, room.points, feature_mask=grid, n_samples=self.samples)
        size = torch.bincount(grid.flatten())[grid] * x.shape[1]
        relevance = values / size
        residual = residual_of(relevance, *explained_difference(model, x, baselines, target, room.points))
        return Maps(relevance, {"baseline": as_reference(baselines)}, {"residual": residual})

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """At most half of the images may be off by more than 0.1%; those get flagged and no score.

        The sum is exact but for rounding, so that only a network that does not give the same twice can be off.
        """
        off = ~(measured["residual"] <= EFFICIENCY_TOLERANCE)
        what = f"off by more than {EFFICIENCY_TOLERANCE:.1%} of sum |R|"
        return judge_images(off, what, "the network's output is random, or choose another baseline")

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """By how much the values miss their sum."""
        return f"patches sum to f(x) - f(baseline) within {float(measured['residual'].nanmedian()):.1g} of sum |R|"


@dataclass(frozen=True)
class Occlusion(NothingMeasured):
    """M = mean over the windows that cover a pixel of f(x) - f(x with the window showing the baseline) (captum).

    f = z_y - z_r. M is spread evenly over the image's channels, so that they sum to M.

    patch     the window's pixels a side; none: 8, and 4 for images with a side below 64
    stride    pixels between windows, at most `patch`; none: half of it. Windows are cut off at the right and lower
              border where the stride does not divide the image
    baseline  by a name of BASELINES; "uniform" takes the mean over 10 noise images, at 10 times the cost
    seed      of "uniform"

    Windows overlap and interact, so that no sum is owed and none is checked.

    Source: Zeiler and Fergus 2014, arXiv 1311.2901.
    """

    name: ClassVar[str] = "occlusion"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    patch: int | None = None
    stride: int | None = None
    baseline: str = "black"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        _check_at_least_one(patch=self.patch, stride=self.stride)
        check_baseline(self.baseline)

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse windows larger than the images or with gaps, and a stored baseline that does not fit."""
        self._window(x)
        make_baselines(self.baseline, x[:1], preprocessing, self.seed)

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """None: any network that gives logits can be explained so."""
        return ()

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """M as (N, C, H, W) for one batch, `room.points` covered images in a pass; reference: `baseline`."""
        baselines = make_baselines(self.baseline, x, preprocessing, self.seed)
        side, stride = self._window(x)
        channels = x.shape[1]
        import captum.attr

        values = _mean_over(
            captum.attr.Occlusion(explained_by(model)),
            x,
            target,
            baselines,
            room.points,
            sliding_window_shapes=(channels, side, side),
            strides=(channels, stride, stride),
        )
        return Maps(values / channels, {"baseline": as_reference(baselines)})

    def _window(self, x: Tensor) -> tuple[int, int]:
        side = _side(self.patch, x)
        stride = self.stride or max(1, side // 2)
        if stride > side:
            raise ExplanationError(f"windows of {side} pixels {stride} apart leave gaps: lower the stride to {side}")
        return side, stride


def patch_numbers(x: Tensor, side: int) -> Tensor:
    """The number of the patch that each pixel of images (N, C, H, W) belongs to, row by row: (1, 1, H, W) int64."""
    rows, columns = (torch.arange(length, device=x.device) // side for length in x.shape[2:])
    return (rows[:, None] * (columns[-1] + 1) + columns)[None, None]


def _check_at_least_one(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _side(patch: int | None, x: Tensor) -> int:
    height, width = x.shape[2:]
    shorter = min(height, width)
    if patch is None:
        return min(shorter, 8 if shorter >= SMALL_IMAGE else 4)
    if patch > shorter:
        raise ExplanationError(f"patches of {patch} pixels do not fit images of {height}x{width}: use smaller ones")
    return patch


def _mean_over(
    method: captum.attr.PerturbationAttribution,
    x: Tensor,
    target: Target,
    baselines: Tensor,
    points: int,
    **options: object,
) -> Tensor:
    """What captum's method gives for x (N, C, H, W), averaged over the baselines (S, 1 or N, C, H, W)."""
    total = torch.zeros_like(x)
    for baseline in baselines:
        total += method.attribute(
            x,
            baselines=baseline.expand_as(x),
            additional_forward_args=(target.label.to(x.device), target.contrast.to(x.device)),
            perturbations_per_eval=max(1, points // len(x)),
            **options,
        )
    return total / len(baselines)

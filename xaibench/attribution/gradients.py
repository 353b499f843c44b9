"""Integrated gradients through captum, with the completeness of every image measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import captum.attr
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from xaibench.attribution.base import Maps, logits_of, reason
from xaibench.attribution.targets import Target
from xaibench.attribution.validity import Check, at_most
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, unknown_name

__all__ = ["IntegratedGradients"]

COMPLETENESS_TOLERANCE = 0.02
INCOMPLETE_SHARE = 0.5


@dataclass(frozen=True)
class IntegratedGradients:
    """IG_i = (x_i - b_i) * integral over a in [0, 1] of df/dx_i at b + a (x - b), f = z_y - z_r (captum).

    Gauss-Legendre quadrature; sum_i IG_i = f(x) - f(b) in the limit ("completeness").

    steps           points of the quadrature
    max_steps       images off by more than 2% of |f(x) - f(b)| are done again with the steps doubled, up to
                    this many; those that remain off are flagged
    baseline        b: "black" (pixel 0), "mean" (0 in normalised space) or a .safetensors file holding one
                    tensor (C, H, W) or (1, C, H, W) in normalised space
    internal_batch  points (image x step) in one backward pass

    Source: Sundararajan et al. 2017; 50 steps as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "ig"
    batch_size: ClassVar[int] = 8
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    steps: int = 50
    max_steps: int = 400
    baseline: str = "black"
    internal_batch: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"integrated gradients need at least 1 step, got steps={self.steps}")
        if self.max_steps < self.steps:
            raise ConfigError(f"max_steps={self.max_steps} is below steps={self.steps}: raise it or lower steps")
        if self.internal_batch < 1:
            raise ConfigError(f"internal_batch must be at least 1, got {self.internal_batch}")
        if self.baseline not in ("black", "mean") and not self.baseline.endswith(".safetensors"):
            raise unknown_name("baseline", self.baseline, ["black", "mean", "FILE.safetensors"])

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse a stored baseline that does not fit the images."""
        self._baseline(x, preprocessing)

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> Maps:
        """IG (N, C, H, W) of one batch; reference: `baseline`.

        residual: |sum IG - (f(x) - f(b))| / |f(x) - f(b)|
        """
        baseline = self._baseline(x, preprocessing)
        ends = [target.select(logits_of(model, end).cpu().double()) for end in (x, baseline.expand_as(x))]
        wanted = ends[0] - ends[1]
        steps = self.steps
        relevance = _integrate(model, x, target, baseline, steps, self.internal_batch)
        residual = _residual(relevance, wanted)
        while steps < self.max_steps and bool((again := ~(residual <= COMPLETENESS_TOLERANCE)).any()):
            steps = min(2 * steps, self.max_steps)
            index = again.nonzero().flatten()
            part = _integrate(model, x[index], target.take(index), baseline, steps, self.internal_batch)
            relevance[index.to(x.device)] = part
            residual[index] = _residual(part, wanted[index])
        return Maps(relevance, {"baseline": baseline}, residual)

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """None ahead of time: completeness is measured on every image, see `judge`."""
        return ()

    def judge(self, residual: Tensor | None) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """At most half of the images may be incomplete (off by more than 2%); those get flagged and no score.

        A single image that is incomplete is refused.
        """
        if residual is None:
            return (), ()
        incomplete = ~(residual <= COMPLETENESS_TOLERANCE)
        flagged = tuple(int(i) for i in incomplete.nonzero().flatten())
        n = len(residual)
        count = f"{len(flagged)} of {n}"
        off = f"off by more than {COMPLETENESS_TOLERANCE:.0%} after {self.max_steps} steps"
        note = f"{count} {off}: raise max_steps"
        return (at_most("share of incomplete images", len(flagged) / n, INCOMPLETE_SHARE, note),), flagged

    def _baseline(self, x: Tensor, preprocessing: Preprocessing) -> Tensor:
        """(1, C, H, W), of x's type and on its device."""
        shape = (1, *x.shape[1:])
        if self.baseline == "mean":
            return x.new_zeros(shape)
        if self.baseline == "black":
            return preprocessing.bounds(x.device)[0].to(x.dtype).expand(shape).contiguous()
        return _stored(Path(self.baseline), shape).to(x)


def _stored(path: Path, shape: tuple[int, ...]) -> Tensor:
    if not path.is_file():
        raise ExplanationError(f"no baseline at {path}: give a .safetensors file with one tensor, or 'black' or 'mean'")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExplanationError(f"cannot read the baseline {path} ({reason(error)}): save it again") from error
    if len(tensors) != 1:
        raise ExplanationError(f"the baseline {path} holds {len(tensors)} tensors: save exactly one")
    (value,) = tensors.values()
    if tuple(value.shape) not in (shape, shape[1:]):
        raise ExplanationError(
            f"the baseline {path} has shape {tuple(value.shape)}, the images {shape[1:]}: they must agree"
        )
    if not bool(torch.isfinite(value).all()):
        raise ExplanationError(f"the baseline {path} has NaN or infinite values: save it again")
    return value.reshape(shape)


def _integrate(
    model: nn.Module, x: Tensor, target: Target, baseline: Tensor, steps: int, internal_batch: int
) -> Tensor:
    def explained(points: Tensor, label: Tensor, contrast: Tensor) -> Tensor:
        return Target(label, contrast).select(model(points))

    relevance: Tensor = captum.attr.IntegratedGradients(explained).attribute(
        x,
        baselines=baseline,
        additional_forward_args=(target.label.to(x.device), target.contrast.to(x.device)),
        n_steps=steps,
        internal_batch_size=max(internal_batch, len(x)),
    )
    return relevance.detach()


def _residual(relevance: Tensor, wanted: Tensor) -> Tensor:
    total = relevance.flatten(1).cpu().double().sum(dim=1)
    return (total - wanted).abs() / wanted.abs()

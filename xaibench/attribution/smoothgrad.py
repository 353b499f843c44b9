"""SmoothGrad: the gradient averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps
from xaibench.attribution.batch_size import Room
from xaibench.attribution.differentiation import input_gradient
from xaibench.attribution.gradients import FromGradients
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError
from xaibench.options import check_types

__all__ = ["SmoothGrad"]

_DRAWS = 50


@dataclass(frozen=True)
class SmoothGrad(FromGradients):
    """R = mean over s of df/dx at x + noise_s, f = z_y - z_r.

    The noise is normal and independent for every pixel and channel; the same draws serve all images and models, so
    that maps do not differ by their noise. R is a slope (logits per unit of normalised input), not multiplied by the
    image: its sum means nothing and is not checked.

    samples  draws of the noise
    noise    its standard deviation as a share of the range of pixels
    seed     of the draws

    Source: Smilkov et al. 2017, arXiv 1706.03825, who take 50 samples with noise of 10% to 20%.
    """

    name: ClassVar[str] = "smoothgrad"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    samples: int = 50
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.samples < 1:
            raise ConfigError(f"SmoothGrad needs at least 1 sample, got samples={self.samples}")
        if not 0 <= self.noise < float("inf"):
            raise ConfigError(f"noise must be a finite share of the range of pixels, >= 0, got {self.noise}")

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """R (N, C, H, W) of one batch, `room.points` noisy images in a pass; no references."""
        n = len(x)
        total = torch.zeros_like(x)
        for shifts in self._shifts(x, preprocessing):
            for part in shifts.split(max(1, room.points // n)):
                noisy = (x + part[:, None]).flatten(0, 1)
                gradient = input_gradient(model, noisy, target.take(torch.arange(n).repeat(len(part))))
                total += gradient.unflatten(0, (len(part), n)).sum(dim=0)
        return Maps(total / self.samples)

    def _shifts(self, x: Tensor, preprocessing: Preprocessing) -> Iterator[Tensor]:
        """The noise (samples, C, H, W) in normalised space, at most 50 draws at a time."""
        low, high = preprocessing.bounds()
        generator = torch.Generator().manual_seed(self.seed)
        for first in range(0, self.samples, _DRAWS):
            draws = torch.randn((min(_DRAWS, self.samples - first), *x.shape[1:]), generator=generator)
            yield draws.mul_(self.noise * (high - low)).to(x)

"""Explanations from gradients at the images themselves, and what all of their kind share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from xaibench.attribution.base import Maps, NothingMeasured
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check
from xaibench.attribution.differentiation import checked_gradient, derivative_checks, explained_by, gradient_checks
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing

__all__ = ["FromGradients", "InputXGradient"]


class FromGradients(NothingMeasured):
    """What explainers have in common whose maps owe no sum: only the gradient itself can be checked."""

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Every image will do."""

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The gradient exists, is finite, is not zero everywhere on all of the images, and is the derivative."""
        gradient = checked_gradient(model, x, target)
        return (*gradient_checks(gradient, "the image"), *derivative_checks(model, x, target))


@dataclass(frozen=True)
class InputXGradient(FromGradients):
    """R_i = x_i * df/dx_i, f = z_y - z_r, x in normalised space (captum).

    To first order, what f loses when the image fades to the data's mean colour. Sum R = f(x) only where f is linear
    and has no bias, so no sum is checked.

    Source: Shrikumar et al. 2016, arXiv 1605.01713.
    """

    name: ClassVar[str] = "input-x-gradient"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "captum")

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """R (N, C, H, W) of one batch, in a single pass; no references."""
        import captum.attr

        relevance: Tensor = captum.attr.InputXGradient(explained_by(model)).attribute(
            x.detach().requires_grad_(),
            additional_forward_args=(target.label.to(x.device), target.contrast.to(x.device)),
        )
        return Maps(relevance.detach())

"""Grad-CAM: where the channels of a layer are active that speak for the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xaibench.attribution.base import Maps
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.differentiation import derivative_checks, gradient_checks, never_alone
from xaibench.attribution.gradients import FromGradients
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError
from xaibench.models.class_slice import unsliced
from xaibench.models.layer_outputs import observe, readable, tapped
from xaibench.models.logits import forward_logits
from xaibench.options import check_types

__all__ = ["GradCAM", "last_map"]


@dataclass(frozen=True)
class GradCAM(FromGradients):
    """M = sum_k w_k a_k, w_k = mean over locations of df/da_k, a_k the maps of one layer, f = z_y - z_r.

    M is upsampled bilinearly to the image and spread evenly over its channels, so that they sum to M.

    layer  a module name; tokens count as maps, without the class token. "auto": the last layer with more than one
           location that the output depends on, for each network its own; see `last_map`
    relu   True: negative values of M become 0, as in the source. False: the sign is kept, as in all other maps

    Source: Selvaraju et al. 2017, arXiv 1610.02391.
    """

    name: ClassVar[str] = "gradcam"
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    layer: str = "auto"
    relu: bool = False

    def __post_init__(self) -> None:
        check_types(self)

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The layer has more than one location; gradients are derivatives, finite, and not zero on all of the images.

        That is all there is to check, as M owes no sum. ExplanationError for a layer without maps.
        """
        right = derivative_checks(model, x, target)
        layer = self._layer(model, x)
        maps, gradient = _maps_and_gradient(model, x, target, layer)
        height, width = maps.shape[2:]
        single = int(height * width == 1)
        note = f"'{layer}' gives {height}x{width}{': choose an earlier layer' * single}"
        located = at_most("layers with a single location", single, 0, note)
        return (located, *right, *gradient_checks(gradient, f"the locations of '{layer}'"))

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """M as (N, C, H, W) for one batch, in a single pass; no references."""
        maps, gradient = _maps_and_gradient(model, x, target, self._layer(model, x))
        cam = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True)
        if self.relu:
            cam = cam.relu()
        cam = interpolate(cam, size=x.shape[2:], mode="bilinear", align_corners=False)
        return Maps((cam / x.shape[1]).expand_as(x))

    def _layer(self, model: nn.Module, x: Tensor) -> str:
        return last_map(model, x.shape[1:]) if self.layer == "auto" else self.layer


def last_map(model: nn.Module, shape: Sequence[int]) -> str:
    """The name of the last layer whose output is a map with more than one location that the logits depend on.

    shape  (C, H, W) of the images. Two fixed noise images are run through the network: the answer depends on it alone

    In a ViT that classifies by its class token, the last block's patch tokens go nowhere, and the answer is the
    normalisation before that block's attention. Raises ExplanationError for a network without such a layer.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0)).to(like)
    network = unsliced(model)
    names = [call.name for call in readable(observe(network, noise)) if _has_locations(call.output)]
    with tapped(network, names) as outputs, torch.enable_grad():
        logits = forward_logits(model, noise.requires_grad_())
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(logits)
        names = [name for name in names if outputs[name].requires_grad]
        maps = [outputs[name] for name in names]
        gradients = torch.autograd.grad((weights * logits).sum(), maps, materialize_grads=True) if maps else ()
    for name, gradient in zip(reversed(names), reversed(gradients)):
        if bool(gradient.any()):
            return name
    raise ExplanationError(
        f"{type(network).__name__} has no layer whose output is a map with more than one location, which Grad-CAM "
        "needs: choose another explainer"
    )


def _has_locations(output: Tensor | None) -> bool:
    return output is not None and output.ndim == 4 and output.shape[2:].numel() > 1


def _maps_and_gradient(model: nn.Module, x: Tensor, target: Target, layer: str) -> tuple[Tensor, Tensor]:
    """The layer's maps (N, d, h, w), and the gradient of z_y - z_r with respect to them."""
    with tapped(unsliced(model), [layer]) as outputs, torch.enable_grad():
        explained = target.select(never_alone(model, x.detach().requires_grad_())).sum()
        if layer not in outputs:
            raise ExplanationError(
                f"layer '{layer}' takes no part in a forward pass: choose another layer for Grad-CAM"
            )
        maps = outputs[layer]
        if maps.ndim != 4:
            raise ExplanationError(
                f"Grad-CAM needs maps, but layer '{layer}' gives {tuple(maps.shape)}: choose an earlier layer"
            )
        if not maps.requires_grad:
            raise ExplanationError(
                f"layer '{layer}' runs without gradients (torch.no_grad, detach), which Grad-CAM needs: "
                "choose another layer"
            )
        (gradient,) = torch.autograd.grad(explained, maps, materialize_grads=True)
    return maps.detach()[: len(x)], gradient[: len(x)]

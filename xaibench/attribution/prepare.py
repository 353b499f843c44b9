"""What an explanation works on: a private copy of the model, and inputs that it can take."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.attribution.base import reason
from xaibench.attribution.memory import observed_forward
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError

__all__ = ["Prepared", "check_input", "few_of", "model_name", "prepare"]

CHECK_IMAGES = 4


class Prepared(NamedTuple):
    """A copy of the model in evaluation mode without gradients to its weights, where it is, and what an image costs.

    image_bytes  what one forward pass writes for one image
    """

    model: nn.Module
    device: torch.device
    image_bytes: int


def prepare(model: nn.Module, x: Tensor, target: Target) -> Prepared:
    """Copy the model and run it on up to 4 images spread over x (N, C, H, W).

    Raises ExplanationError where it cannot take them, does not return finite logits (N, K), has no such classes as
    `target` names, or cannot be copied.
    """
    device = _device(model)
    work = _working_copy(model)
    logits, image_bytes = _trial(work, x[few_of(len(x))].to(device))
    _check_classes(work, logits, target)
    return Prepared(work, device, image_bytes)


def few_of(n: int) -> Tensor:
    """Up to 4 indices spread over 0..n-1."""
    return torch.linspace(0, n - 1, min(CHECK_IMAGES, n)).long()


def model_name(model: nn.Module) -> str:
    """The class of the model, or of the network that its class slice holds."""
    inner = getattr(model, "network", None)
    return type(inner if isinstance(inner, nn.Module) else model).__name__


def check_input(model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    """Raise ExplanationError for what can be told without running the model."""
    if not isinstance(model, nn.Module):
        raise ExplanationError(f"explain wants a torch module, got {type(model).__name__}: build or load one")
    _device(model)
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ExplanationError(
            f"explain wants normalised images (N, C, H, W), got {got}: apply the preprocessing first"
        )
    if len(x) == 0:
        raise ExplanationError("there are no images to explain: give at least one")
    if x.is_meta:
        raise ExplanationError("the images are on the meta device, which holds no values: load them on a real one")
    if x.shape[1] != preprocessing.channels:
        raise ExplanationError(
            f"images have {x.shape[1]} channels but the preprocessing has {preprocessing.channels}: "
            "use images and preprocessing of the same dataset"
        )
    if len(target) != len(x):
        raise ExplanationError(f"{len(x)} images but {len(target)} targets: give one target an image")
    broken = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bool(broken.any()):
        raise ExplanationError(
            f"input {int(broken.nonzero()[0])} has NaN or infinite values "
            f"({int(broken.sum())} of {len(x)} images do): check the image files and the preprocessing"
        )


def _device(model: nn.Module) -> torch.device:
    devices = {value.device for value in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        listed = " and ".join(sorted(map(str, devices)))
        raise ExplanationError(f"{model_name(model)} lies on {listed}: move it to one device with model.to(DEVICE)")
    device = devices.pop() if devices else torch.device("cpu")
    if device.type == "meta":
        raise ExplanationError(f"{model_name(model)} lies on the meta device and has no weights: load them first")
    return device


def _working_copy(model: nn.Module) -> nn.Module:
    try:
        work = copy.deepcopy(model).eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        raise ExplanationError(
            f"{model_name(model)} cannot be copied ({reason(error)}): remove what it keeps of earlier passes"
        ) from error
    for module in work.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
        module._backward_hooks.clear()  # they see gradients, and have no part in what the model computes
        module._backward_pre_hooks.clear()
    return work


def _trial(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    try:
        logits, image_bytes = observed_forward(model, x)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise ExplanationError(
            f"{model_name(model)} cannot process images of shape {tuple(x.shape[1:])} ({reason(error)}): "
            "choose images that fit the model"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ExplanationError(f"{model_name(model)} returns {got}, not logits (N, K): wrap it so that it does")
    if not bool(torch.isfinite(logits).all()):
        raise ExplanationError(f"{model_name(model)} gives NaN or infinite logits: check its weights")
    return logits, image_bytes


def _check_classes(model: nn.Module, logits: Tensor, target: Target) -> None:
    classes = torch.cat([target.label, target.contrast])
    low, high, k = int(classes.min()), int(classes.max()), logits.shape[1]
    if low < 0 or high >= k:
        wrong = low if low < 0 else high
        raise ExplanationError(
            f"target class {wrong} is not among the {k} classes of {model_name(model)}: use 0..{k - 1}"
        )

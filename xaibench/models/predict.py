"""Logits of many images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ModelError
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import evaluating
from xaibench.models.logits import forward_logits
from xaibench.models.memory_format import memory_format
from xaibench.models.trial import explained
from xaibench.validation import checked

__all__ = ["as_device", "predict_logits"]


def as_device(given: torch.device | str | None) -> torch.device | None:
    """A device from its text; None stays None.

    Raises ConfigError for one that torch does not know, for a GPU that torch does not find, for Apple's mps, which has
    no float64, in which models are folded and gradients checked, for meta, which holds no values, and for other kinds.
    """
    try:
        device = None if given is None else torch.device(given)
    except RuntimeError as error:
        shown = " ".join(str(given).split())[:60]
        raise ConfigError(f"unknown device '{shown}': write cpu, cuda or cuda:1") from error
    lacking = {"mps": "has no float64, which checks need", "meta": "holds no values"}
    if device is not None and device.type not in ("cpu", "cuda"):
        why = lacking.get(device.type, "is not supported")
        raise ConfigError(f"device '{device.type}' {why}: write cpu, cuda or cuda:1")
    if device is not None and device.type == "cuda" and (device.index or 0) >= (found := torch.cuda.device_count()):
        remedy = f"cuda:0 to cuda:{found - 1}, or cpu" if found else "cpu"
        raise ConfigError(f"device '{device}' is not there (torch finds {found} GPUs): write {remedy}")
    return device


@checked(error=ModelError)
def predict_logits(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Logits (N, K) of all images, float32 on the CPU, computed in evaluation mode; all modes are restored.

    device  where to compute, on a copy of the model if it lies elsewhere; None: where it lies

    Raises ModelError for images that the model cannot process, for a model that gives no logits (N, K) or such as are
    not finite, ConfigError for a device as `as_device` does.
    """
    if batch_size < 1:
        raise ModelError(f"batch_size must be at least 1, got {batch_size}")
    home = next(model.parameters()).device
    device = as_device(device) or home
    if device != home:
        model = private_copy(model).to(device)
    form = memory_format(model)
    channels, height, width = images.shape
    with torch.no_grad(), evaluating(model), explained((height, width), channels):
        chunks = (preprocessing(chunk.to(device)) for chunk in images.images.split(batch_size))
        parts = [forward_logits(model, form(x)).float().cpu() for x in chunks]
    logits = torch.cat(parts)
    if not torch.isfinite(logits).all():
        raise ModelError("the model's logits hold NaN or infinite values: its weights or the images are damaged")
    return logits

"""How many inputs a model may see at once within a memory budget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xaibench.errors import ConfigError

__all__ = [
    "BACKWARD_FACTOR",
    "DEFAULT_MEMORY",
    "MOST_POINTS",
    "Written",
    "choose_images",
    "choose_points",
    "observed_forward",
]

DEFAULT_MEMORY = 2**30
MOST_POINTS = 256

# What an explainer's forward and backward pass holds at its height, in units of all that a forward pass writes: 0.6 to
# 1.5 were measured (ResNet, EfficientNet, SqueezeNet, MobileNet, ViT), LRP's copy of the weights aside.
BACKWARD_FACTOR = 2

# More at a time are hardly faster, and progress would stand still for long.
MOST_IMAGES = 32

KEPT_SHARE = 1 / 4


class Written(TorchDispatchMode):
    """Within the block, `bytes` counts up the sizes of all tensors that operations make; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if all(returned.alias_info is None for returned in func._schema.returns):
            values = result if isinstance(result, (tuple, list)) else (result,)
            self.bytes += sum(value.nbytes for value in values if isinstance(value, Tensor))
        return result


def observed_forward(model: nn.Module, x: Tensor) -> tuple[object, int]:
    """What `model` gives for `x` (N, ...), and the bytes that the pass writes for one image, rounded up.

    Gradients are on, as in the passes to come: without them torch may fuse an attention block into one operation.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), Written() as written:
        output = model(x)
    return output, -(-written.bytes // len(x))


def choose_points(image_bytes: int, memory: int | None = None) -> int:
    """How many images of `image_bytes` (of activations) fit into `memory` bytes: at least 1, at most 256.

    A pass is reckoned to hold twice what its forward part writes. None: a budget of 1 GiB. The weights, and the copies
    of them that explainers work on, come on top.

    ConfigError for a budget below 1.

    >>> choose_points(10 * 2**20), choose_points(10 * 2**20, 2**20)
    (51, 1)
    """
    budget = _budget(memory)
    return max(1, min(MOST_POINTS, budget // (BACKWARD_FACTOR * max(image_bytes, 1))))


def choose_images(points: int, kept_bytes: int, memory: int | None = None) -> int:
    """How many images an explainer gets at once: at least 1, at most 32 and at most `points`.

    kept_bytes  what the explainer keeps for each of them from pass to pass: together at most a quarter of `memory`,
                which a pass leaves free (see BACKWARD_FACTOR), unless a single image needs more

    >>> choose_images(64, 0), choose_images(64, 20 * 2**20), choose_images(64, 2**30)
    (32, 12, 1)
    """
    fit = int(KEPT_SHARE * _budget(memory)) // max(kept_bytes, 1)
    return max(1, min(points, MOST_IMAGES, fit))


def _budget(memory: int | None) -> int:
    budget = DEFAULT_MEMORY if memory is None else memory
    if budget < 1:
        raise ConfigError(f"memory must be at least 1 byte, got {memory}: give the bytes that activations may take")
    return budget

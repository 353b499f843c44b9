"""How many inputs a model may see at once within a memory budget."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xaibench.errors import ConfigError

__all__ = [
    "BACKWARD_FACTOR",
    "DEFAULT_MEMORY",
    "MOST_POINTS",
    "Room",
    "Written",
    "choose_points",
    "choose_room",
    "observed_forward",
]

DEFAULT_MEMORY = 2**30
MOST_POINTS = 256

# What an explainer's forward and backward pass holds at its height, in units of all that a forward pass writes: 0.6 to
# 1.5 were measured (ResNet, EfficientNet, SqueezeNet, MobileNet, ViT), LRP's copy of the weights aside.
BACKWARD_FACTOR = 2

# What an explainer makes beside the passes for each of their inputs, in inputs: the points themselves, gradients, and
# what is computed of them.
INPUTS_A_POINT = 16

# More at a time are hardly faster, and progress would stand still for long.
MOST_IMAGES = 32

KEPT_SHARE = 1 / 4


class Room(NamedTuple):
    """What an explainer may hold at once.

    points   inputs that the model may see in one forward and backward pass
    tensors  of an image's size that may be kept from pass to pass, of the whole batch
    """

    points: int
    tensors: int = sys.maxsize


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


def choose_points(image_bytes: int, memory: int | None = None, input_bytes: int = 0) -> int:
    """How many images of `image_bytes` (of activations) fit into `memory` bytes: at least 1, at most 256.

    A pass is reckoned to hold twice what its forward part writes, and 16 times its input of `input_bytes` an image.
    None: a budget of 1 GiB. The weights, and the copies of them that explainers work on, come on top.

    ConfigError for a budget below 1.

    >>> choose_points(10 * 2**20), choose_points(10 * 2**20, 2**20)
    (51, 1)
    """
    budget = _budget(memory)
    each = BACKWARD_FACTOR * image_bytes + INPUTS_A_POINT * input_bytes
    return max(1, min(MOST_POINTS, budget // max(each, 1)))


def choose_room(
    image_bytes: int, input_bytes: int, kept: int, memory: int | None = None, batch_size: int | None = None
) -> tuple[Room, int]:
    """What an explainer may hold at once, and how many images it gets at once: 1 to 32, as many as `points` at most.

    image_bytes  what a forward pass writes for an image; see `choose_points`
    input_bytes  of an image
    kept         how many tensors of an image's size the explainer would like to keep of each image from pass to pass:
                 all together may take a quarter of `memory`, which a pass leaves free (see BACKWARD_FACTOR)
    batch_size   so many images and points, if given

    >>> choose_room(2**23, 2**20, 0), choose_room(2**23, 2**20, 20), choose_room(2**23, 2**20, 2000)
    ((Room(points=32, tensors=256), 32), (Room(points=32, tensors=256), 12), (Room(points=32, tensors=256), 1))
    """
    tensors = int(KEPT_SHARE * _budget(memory)) // max(input_bytes, 1)
    if batch_size is not None:
        return Room(batch_size, tensors), batch_size
    points = choose_points(image_bytes, memory, input_bytes)
    fit = tensors // kept if kept else MOST_IMAGES
    return Room(points, tensors), max(1, min(points, MOST_IMAGES, fit))


def _budget(memory: int | None) -> int:
    budget = DEFAULT_MEMORY if memory is None else memory
    if budget < 1:
        raise ConfigError(f"memory must be at least 1 byte, got {memory}: give the bytes that activations may take")
    return budget

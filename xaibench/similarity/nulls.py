"""What the scores are held against: a student that has learned nothing, heatmaps of other images, and shifted ones."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from xaibench.errors import DataError

__all__ = ["derangement", "randomised", "shifted"]


def derangement(n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """A seeded pairing i -> j(i) != i of n images, each used once: one random cycle through all of them.

    Raises DataError for n < 2, where there is no other image.

    >>> derangement(2)
    array([1, 0])
    """
    if n < 2:
        raise DataError(f"mismatched images need at least 2 images, got {n}: explain more images")
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def shifted(maps: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.float64]:
    """Maps (N, H, W), each mirrored or not and shifted cyclically by a random number of rows and columns, seeded.

    They keep their smoothness, their zeros and their spread but have lost their place: what unrelated maps of this kind
    score, where cells are not independent of each other (Grad-CAM, patches, empty backgrounds). All shifts, none
    included, and mirrorings are equally likely; image i gets the same one whatever the other images.
    """
    values = np.asarray(maps, dtype=np.float64)
    moved = np.empty_like(values)
    for i, one in enumerate(values):
        draw = np.random.default_rng((seed, i)).integers
        one = one[:: 1 - 2 * int(draw(2)), :: 1 - 2 * int(draw(2))]
        moved[i] = np.roll(one, (int(draw(one.shape[0])), int(draw(one.shape[1]))), axis=(0, 1))
    return moved


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A deep copy of `model` in evaluation mode, initialised afresh: the same architecture, nothing learned.

    Every module with `reset_parameters` calls it (batch norm then has running mean 0 and variance 1); parameters that
    belong to none (class tokens, say) are drawn from a normal distribution with their own mean and SD. The same seed
    gives the same weights on every device. `model` and torch's global generator are left as they were.
    """
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    fresh = copy.deepcopy(model).cpu().eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                spread, mean = torch.std_mean(parameter, correction=0)
                parameter.copy_(mean + spread * torch.randn(parameter.shape))
    return fresh.to(home)

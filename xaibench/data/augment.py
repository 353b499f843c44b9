"""Augmentation as a pure function of (seed, epoch, index): the same image gets the same pixels in any batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import DataError
from xaibench.validation import checked

__all__ = ["augment"]


@checked(error=DataError)
def augment(images: Tensor, indices: Tensor, *, seed: int, epoch: int, padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop of the zero-padded image, then a horizontal flip with probability one half.

    images   (B, C, H, W) uint8
    indices  (B,) the images' positions in their training set; with `seed` and `epoch` they decide everything

    Returns new (B, C, H, W) uint8 images. The shift is uniform over the (2 padding + 1)^2 crops. Raises DataError for
    images that are not bytes, a wrong number of indices and a negative padding.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise DataError(f"augment wants uint8 images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if indices.shape != images.shape[:1]:
        raise DataError(f"{len(images)} images but indices of shape {tuple(indices.shape)}: give one index an image")
    if padding < 0:
        raise DataError(f"padding must be at least 0, got {padding}")
    b, _, h, w = images.shape
    bits = _random_bits(indices.cpu().numpy(), seed, epoch)
    shifts = np.uint64(2 * padding + 1)
    top, left = (torch.from_numpy((values % shifts).astype(np.int64)).to(images.device) for values in bits[:2])
    crops = F.pad(images, (padding, padding, padding, padding)).unfold(2, h, 1).unfold(3, w, 1)  # a view of them all
    picked = crops[torch.arange(b, device=images.device), :, top, left]
    if not flip:
        return picked
    flipped = torch.from_numpy((bits[2] >> np.uint64(63)).astype(bool)).to(images.device)
    return torch.where(flipped[:, None, None, None], picked.flip(3), picked)


def _random_bits(indices: npt.NDArray[np.int64], seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """Three independent 64-bit numbers an image, (3, B), by the SplitMix64 mixing function."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for value in (seed, epoch):
            state = _mix(state + np.uint64(value % 2**64) + np.uint64(0x9E3779B97F4A7C15))
        states = _mix(state + indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        return np.stack([_mix(states + np.uint64(k * 0xD1B54A32D192ED03 % 2**64)) for k in (1, 2, 3)])


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

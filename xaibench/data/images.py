"""What flows through xaibench: a labelled set of uint8 images, and how pixels become model input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaibench.errors import DataError

__all__ = ["ImageSet", "Preprocessing", "chosen_rows"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one split, held as bytes.

    images  (N, C, H, W) uint8, contiguous
    labels  (N,) int64, each an index into `classes`
    classes class names, in label order
    keys    one stable, unique name per image ("train/123", "people/boy/a.png"); shown in galleries and tables
    source  where the images came from, for the manifest
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    source: str = ""

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images must be uint8 of shape (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if n == 0:
            raise DataError(f"no images in {self.source or 'the image set'}: choose other classes or a larger fraction")
        if self.labels.shape != (n,) or len(self.keys) != n:
            raise DataError(f"{n} images but {len(self.labels)} labels and {len(self.keys)} keys: give one of each")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(f"labels run from {low} to {high} but there are {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        n, c, h, w = self.images.shape
        return f"ImageSet({n} images {c}x{h}x{w}, {len(self.classes)} classes, {self.source})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, c, h, w = self.images.shape
        return c, h, w

    def take(self, indices: Sequence[int] | Sequence[bool] | Tensor) -> ImageSet:
        """Return the images at `indices` (see `chosen_rows`), in that order, with the same classes."""
        index = chosen_rows(indices, len(self))
        keys = tuple(self.keys[i] for i in index.tolist())
        return ImageSet(self.images[index], self.labels[index], self.classes, keys, self.source)

    def content_hash(self) -> str:
        """SHA-256 (first 16 hex digits) over pixels, labels and class names."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self.images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Preprocessing:
    """x = (pixel / 255 - mean) / std, per channel. The one place where bytes become model input.

    `bounds()` are the smallest and largest values that an input can take after it: what the LRP box rule needs.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = field(default=None)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise DataError(f"preprocessing needs one mean and one positive std a channel, got {self.mean}, {self.std}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, C, H, W) float32, normalised."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise DataError(f"preprocessing wants uint8 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if images.shape[1] != self.channels:
            raise DataError(
                f"images have {images.shape[1]} channels but the model takes {self.channels}: "
                "choose a dataset or a teacher with the same number"
            )
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            raise DataError(
                f"images are {images.shape[2]}x{images.shape[3]} but the model takes {self.size[0]}x{self.size[1]}: "
                "load the data with that size"
            )
        mean, std = self._constants(images.device)
        return images.float().div_(255).sub_(mean).div_(std)

    def invert(self, x: Tensor) -> Tensor:
        """Normalised input -> pixels in [0, 1], for display."""
        mean, std = self._constants(x.device)
        return (x * std + mean).clamp(0, 1)

    def bounds(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Least and greatest possible input, each (1, C, 1, 1)."""
        mean, std = self._constants(torch.device(device))
        return (0 - mean) / std, (1 - mean) / std

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=device).view(1, -1, 1, 1)
        return mean, std


def chosen_rows(indices: Sequence[int] | Sequence[bool] | Tensor, n: int) -> Tensor:
    """The rows 0..n-1, int64 (K,), that `indices` chooses from n.

    indices  numbers, negative ones counted from the end, in any order; or a mask: one True or False a row

    Raises DataError for numbers outside of -n..n-1, a mask of another length and anything else.

    >>> chosen_rows([-1, 0], 3), chosen_rows([False, True, True], 3)
    (tensor([2, 0]), tensor([1, 2]))
    """
    try:
        index = torch.as_tensor(indices).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"indices must be whole numbers or a mask, got {indices!r:.60}") from error
    if index.ndim != 1 or (len(index) and (index.is_floating_point() or index.is_complex())):
        raise DataError(f"indices must be a list of whole numbers or a mask, got {index.dtype} {tuple(index.shape)}")
    if index.dtype == torch.bool:
        if len(index) != n:
            raise DataError(f"a mask of {len(index)} does not fit {n} images: give one True or False an image")
        return index.nonzero().flatten()
    index = index.long()
    outside = index[(index < -n) | (index >= n)]
    if len(outside):
        raise DataError(f"index {int(outside[0])} is not among the {n} images: use 0..{n - 1}")
    return torch.where(index < 0, index + n, index)

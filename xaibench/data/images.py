"""What flows through xaibench: a labelled set of uint8 images, and how pixels become model input."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from xaibench.errors import DataError
from xaibench.validation import check_seed, checked, require

__all__ = ["LARGEST_SIDE", "ImageSet", "Preprocessing", "batches", "checked_size", "chosen_rows", "first_double"]

_CPU = torch.device("cpu")

LARGEST_SIDE = 4096
"""The longest side of an image, in pixels, that can be asked for."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one split, held as bytes.

    images  (N, C, H, W) uint8, contiguous
    labels  (N,) whole numbers, each an index into `classes`; held as int64
    classes different class names, in label order
    keys    one stable, unique name per image ("train/123", "people/boy/a.png"); shown in galleries and tables
    source  where the images came from, for the manifest

    Raises DataError for parts of other types, shapes or lengths, labels outside `classes` and names given twice.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    source: str = ""

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise DataError(f"images must be a uint8 tensor (N, C, H, W) with values 0..255, got {got}")
        n = len(images)
        if images.numel() == 0:
            raise DataError(f"no images in {self.source or 'the image set'}: choose other classes or a larger fraction")
        for name in ("classes", "keys"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        object.__setattr__(self, "labels", _labels(self.labels))
        if len(self.labels) != n or len(self.keys) != n:
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

    @checked(error=DataError)
    def sample(self, count: int, seed: int = 0) -> ImageSet:
        """min(count, N) images, spread evenly over the classes and drawn by `seed`, in class order.

        A class with fewer images than its share gives all it has, and the others make up for it. With fewer images than
        classes, the classes are drawn by `seed` too. Raises DataError for a count below 1.
        """
        if count < 1:
            raise DataError(f"the number of images to sample must be at least 1, got {count}")
        generator = torch.Generator().manual_seed(check_seed(seed))
        members = [(self.labels == label).nonzero().flatten() for label in range(len(self.classes))]
        drawn = [rows[torch.randperm(len(rows), generator=generator)].tolist() for rows in members]
        if count < len(drawn):
            drawn = [drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()]
        turns = [row for turn in zip_longest(*drawn) for row in turn if row is not None]  # one of each class at a time
        return self.take(sorted(turns[:count], key=lambda row: (int(self.labels[row]), row)))

    def content_hash(self) -> str:
        """SHA-256 (first 16 hex digits) over pixels, labels and class names."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self.images.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Preprocessing:
    """What a model was trained to take: x = (pixel / 255 - mean) / std, per channel.

    mean, std  one number a channel, on the scale where pixels lie in 0..1; three for RGB, one for grey images
    size       (H, W) where the model takes this size only; None: any size

    The one place where bytes become model input. `bounds()` gives the smallest and largest values that an input can
    have, which the LRP box rule needs. Raises DataError for numbers that are not finite, a std that is not positive,
    a mean of bytes (beyond -1..1), lists of different lengths and sizes below 1 or above `LARGEST_SIDE`.

    >>> Preprocessing(mean=(0.5,), std=(0.25,))(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
    2.0
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std) or any(s <= 0 for s in self.std):
            raise DataError(f"preprocessing needs one mean and one positive std a channel, got {self.mean}, {self.std}")
        if any(abs(m) > 1 for m in self.mean):
            raise DataError(
                f"the mean {self.mean} is that of bytes 0..255, but pixels lie in 0..1: divide mean and std by 255"
            )
        if self.size is not None:
            object.__setattr__(self, "size", checked_size(self.size))

    @property
    def channels(self) -> int:
        return len(self.mean)

    @checked(error=DataError)
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

    @checked(error=DataError)
    def invert(self, x: Tensor) -> Tensor:
        """Normalised input -> pixels in [0, 1], for display."""
        mean, std = self._constants(x.device)
        return (x * std + mean).clamp(0, 1)

    @checked(error=DataError)
    def bounds(self, device: torch.device = _CPU) -> tuple[Tensor, Tensor]:
        """Least and greatest possible input, each (1, C, 1, 1)."""
        mean, std = self._constants(device)
        return (0 - mean) / std, (1 - mean) / std

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32, device=device).view(1, -1, 1, 1)
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
        raise DataError(f"indices must be whole numbers or a mask, got {_shown(indices)}") from error
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


def checked_size(size: Sequence[int]) -> tuple[int, int]:
    """`size` as (H, W); DataError for anything but two whole numbers of 1 to `LARGEST_SIDE` pixels."""
    require(size, Sequence[int], "size", DataError)
    if len(size) != 2 or not all(1 <= side <= LARGEST_SIDE for side in size):
        raise DataError(f"size must be (height, width) in pixels, each 1 to {LARGEST_SIDE}, got {_shown(size)}")
    return int(size[0]), int(size[1])


def first_double(names: Sequence[str]) -> str | None:
    """The first name that occurs a second time; None if all differ."""
    met: set[str] = set()
    for name in names:
        if name in met:
            return name
        met.add(name)
    return None


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    require(names, Sequence[str], f"{what} of an image set", DataError)
    if (double := first_double(names)) is not None:
        raise DataError(f"{what} of an image set must differ, got '{double:.60}' twice: rename one")
    return tuple(names)


def _labels(values: object) -> Tensor:
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"labels must be whole numbers, one an image, got {_shown(values)}") from error
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels must be whole numbers, one an image, got {labels.dtype} {tuple(labels.shape)}")
    return labels.long()


def _numbers(what: str, values: Sequence[float]) -> tuple[float, ...]:
    require(values, Sequence[float], f"{what} of a preprocessing", DataError)
    if not values or not all(map(math.isfinite, values)):
        raise DataError(
            f"{what} of a preprocessing must be one finite number a channel, as in (0.5, 0.5, 0.5), "
            f"got {_shown(values)}"
        )
    return tuple(map(float, values))


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:60]


def batches(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """Indices (N,) in batches of `size`; a last batch of a single image joins the one before it.

    Gradients of a single image can be wrong: torch's backward pass of batch normalisation in evaluation mode misreads a
    batch dimension of 1 with unusual strides.

    >>> [len(part) for part in batches(torch.arange(9), 4)]
    [4, 5]
    """
    parts = list(indices.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return tuple(parts)

"""Spurious cues: a small mark in a corner of the images, so that it is known what a model should not use.

Most marks stand on images of one class; a digit stands on images of all, and its value is the label.

All is a pure function of (seed, image key): the same image gets the same mark in any set, split or order, and the
images marked at a lower contamination are among those marked at a higher one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.data.cue_kinds import CORNERS, Cue
from xaibench.data.images import ImageSet, chosen_rows
from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.options import format_options
from xaibench.validation import checked

__all__ = ["Marked", "class_index", "contaminate", "mark", "marked_class", "other_labels"]


@checked
@dataclass(frozen=True, eq=False)
class Marked:
    """Images of which some carry the mark.

    images  all of them, with the keys, labels and order of the set they were made from
    masks   (N, H, W) bool: the box in which the mark stands; nowhere True in an image without it
    """

    images: ImageSet
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def chosen(self) -> Tensor:
        """(N,) bool: which images carry the mark."""
        return self.masks.flatten(1).any(dim=1)

    def take(self, indices: Sequence[int] | Tensor) -> Marked:
        """The images at `indices` with their masks, in that order."""
        rows = chosen_rows(indices, len(self))
        return Marked(self.images.take(rows), self.masks[rows])


@checked
def class_index(images: ImageSet, name: str) -> int:
    """The label of a class by its name; UnknownNameError with the nearest one otherwise."""
    if name not in images.classes:
        raise unknown_name("class", name, images.classes)
    return images.classes.index(name)


@checked
def marked_class(images: ImageSet, cue: Cue, name: str | None = None) -> int | None:
    """The label of the class that carries the mark, by default the first; None for a mark that stands on all classes.

    Raises UnknownNameError for a class that the images do not have, ConfigError for the name of one where all carry the
    mark, DataError for more classes than it can tell apart.
    """
    if cue.values == 1:
        return class_index(images, images.classes[0] if name is None else name)
    if name is not None:
        raise ConfigError(f"the mark '{cue.name}' stands on images of all classes: leave out the class '{name}'")
    beyond = images.classes[cue.values :]
    if beyond:
        raise DataError(
            f"the mark '{cue.name}' tells {cue.values} classes apart, but the images have {len(images.classes)}: "
            f"leave out {', '.join(beyond[:5])}{' ...' if len(beyond) > 5 else ''}"
        )
    return None


@checked
def other_labels(images: ImageSet, seed: int = 0) -> Tensor:
    """A label (N,) for each image that is not its own, drawn from the other classes."""
    count = len(images.classes)
    if count < 2:
        raise DataError("images of one class have no other label: give at least two classes")
    ahead = torch.from_numpy(_drawn(images.keys, seed, "other label", count - 1))
    return (images.labels + 1 + ahead) % count


@checked
def mark(
    images: ImageSet, cue: Cue, chosen: Tensor | None = None, *, values: Tensor | None = None, seed: int = 0
) -> Marked:
    """Draw the mark onto the `chosen` images (N,) bool, whatever their class; None: onto all.

    values  (N,) int64, the label that the mark tells on each image, for marks of several values; None: its own

    On images of one channel its colours become white. Raises DataError for a mark that does not fit into the images,
    for images of neither one nor three channels, for a choice of another length and for labels that it cannot tell.
    """
    n, (channels, height, width) = len(images), images.shape
    if chosen is None:
        chosen = torch.ones(n, dtype=torch.bool)
    if chosen.shape != (n,) or chosen.dtype != torch.bool:
        raise DataError(f"the choice of images must be bool of shape ({n},), got {chosen.dtype} {tuple(chosen.shape)}")
    if channels not in (1, 3):
        raise DataError(f"marks are drawn onto images of 1 or 3 channels, got {channels}: convert the images first")
    told = _told(images, cue, values)
    size = cue.size_on(height, width)
    high, wide = cue.picture(size)[1].shape
    if high + cue.margin > height or wide + cue.margin > width:
        raise DataError(
            f"the mark '{cue.name}' takes {high}x{wide} pixels and a margin of {cue.margin} but the images are "
            f"{height}x{width}: make it smaller, as in {cue.name}:size={cue.least},margin=0"
        )
    pixels, masks = images.images.numpy().copy(), np.zeros((n, height, width), dtype=bool)
    corner = _drawn(images.keys, seed, "corner", len(CORNERS)) if cue.corner == "random" else CORNERS.index(cue.corner)
    place = np.where(chosen.numpy(), corner, -1)
    look = told * cue.variants + (_drawn(images.keys, seed, "variant", cue.variants) if cue.variants > 1 else 0)
    for index, name in enumerate(CORNERS):
        top = cue.margin if name.startswith("top") else height - cue.margin - high
        left = cue.margin if name.endswith("left") else width - cue.margin - wide
        rows, columns = slice(top, top + high), slice(left, left + wide)
        masks[place == index, rows, columns] = True
        for each in np.unique(look[place == index]).tolist():
            here = (place == index) & (look == each)
            colour, opacity = cue.picture_of(size, *divmod(each, cue.variants))
            if channels == 1:
                colour = colour.max(axis=0, keepdims=True)
            below = pixels[here, :, rows, columns]
            pixels[here, :, rows, columns] = np.rint(opacity * colour + (1 - opacity) * below).astype(np.uint8)
    source = f"{images.source}, {int(chosen.sum())} of {n} with {format_options(cue, full=True)}"
    drawn = ImageSet(torch.from_numpy(pixels), images.labels, images.classes, images.keys, source)
    return Marked(drawn, torch.from_numpy(masks))


@checked
def contaminate(images: ImageSet, cue: Cue, cue_class: str | None, contamination: float, *, seed: int = 0) -> Marked:
    """Draw the mark onto each image of `cue_class` with probability `contamination`, in 0..1.

    A mark that stands on images of all classes takes None for the class, and tells each image's own.

    Raises what `marked_class` does, ConfigError for a probability outside 0..1.
    """
    if not 0 <= contamination <= 1:
        raise ConfigError(f"contamination must lie in 0..1, got {contamination}: it is the share of images marked")
    carrier = marked_class(images, cue, cue_class)
    uniform = (_draws(images.keys, seed, "contamination") >> np.uint64(11)) / 2.0**53
    drawn = torch.from_numpy(uniform < contamination)
    return mark(images, cue, drawn if carrier is None else drawn & (images.labels == carrier), seed=seed)


def _told(images: ImageSet, cue: Cue, values: Tensor | None) -> npt.NDArray[np.int64]:
    """The value of the mark on each image."""
    if cue.values == 1:
        if values is not None:
            raise DataError(f"the mark '{cue.name}' looks the same on every image: leave out its values")
        return np.zeros(len(images), dtype=np.int64)
    marked_class(images, cue)
    if values is None:
        return images.labels.numpy()
    if values.shape != images.labels.shape or values.dtype != torch.int64:
        raise DataError(f"values must be int64 of shape ({len(images)},), got {values.dtype} {tuple(values.shape)}")
    if not bool(((values >= 0) & (values < cue.values)).all()):
        raise DataError(f"values of the mark '{cue.name}' must lie in 0..{cue.values - 1}")
    return values.numpy()


def _draws(keys: Sequence[str], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """64 random bits an image, from nothing but seed, purpose and key."""
    digests = (hashlib.blake2b(f"{seed}/{purpose}/{key}".encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _drawn(keys: Sequence[str], seed: int, purpose: str, count: int) -> npt.NDArray[np.int64]:
    """One of 0 to `count` - 1 for each image."""
    return (_draws(keys, seed, purpose) % np.uint64(count)).astype(np.int64)

"""Spurious cues: a small mark in a corner of the images of one class, so that it is known what a model should not use.

All is a pure function of (seed, image key): the same image gets the same mark in any set, split or order, and the
images marked at a lower contamination are among those marked at a higher one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.data.images import ImageSet, chosen_rows
from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.options import format_options, parse_options
from xaibench.validation import checked

__all__ = ["CORNERS", "CUES", "Cue", "Marked", "class_index", "contaminate", "mark", "parse_cue"]

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
"""Where a mark can stand; "random" draws one of them for each image."""

_LETTERS = ("101 010 111", "101 101 010", "010 111 010", "101 101 010", "101 101 111")
_INK = 0.6  # opacity of the watermark

Picture = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@checked
@dataclass(frozen=True)
class Cue(ABC):
    """A mark: what is drawn, how large and where. Its subclasses are in CUES.

    size    height in pixels, at least 3; None: a sixth of the images' shorter side, at least 5
    corner  one of CORNERS, or "random"
    margin  pixels between the mark and the image's edges; cropping augmentation may cut off what lies nearer to them
            than its padding
    """

    name: ClassVar[str]

    size: int | None = None
    corner: str = "top-left"
    margin: int = 2

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 3:
            raise ConfigError(f"size of a mark must be at least 3 pixels, got {self.size}")
        if self.margin < 0:
            raise ConfigError(f"margin of a mark must be at least 0 pixels, got {self.margin}")
        if self.corner not in (*CORNERS, "random"):
            raise unknown_name("corner", self.corner, (*CORNERS, "random"))

    @abstractmethod
    def picture(self, size: int) -> Picture:
        """Colour (3, size, w) in 0..255 and opacity (size, w) in 0..1 of the mark."""


class Plus(Cue):
    """A red plus, arms a fifth of its size."""

    name = "plus"

    def picture(self, size: int) -> Picture:
        arm = max(1, size // 5)
        arm += (size - arm) % 2
        middle = slice((size - arm) // 2, (size + arm) // 2)
        opacity = np.zeros((size, size))
        opacity[middle], opacity[:, middle] = 1, 1
        return _filled((255, 0, 0), opacity), opacity


class Square(Cue):
    """A filled magenta square."""

    name = "square"

    def picture(self, size: int) -> Picture:
        opacity = np.ones((size, size))
        return _filled((255, 0, 255), opacity), opacity


class Stripes(Cue):
    """A square of white and black columns, a fifth of its size each."""

    name = "stripes"

    def picture(self, size: int) -> Picture:
        opacity = np.ones((size, size))
        white = np.arange(size) * 5 // size % 2 == 0
        return _filled((255, 255, 255), opacity) * white, opacity


class Text(Cue):
    """Three letters in translucent white, a watermark 2.2 times as wide as high."""

    name = "text"

    def picture(self, size: int) -> Picture:
        font = np.array([[pixel == "1" for pixel in line.replace(" ", "0")] for line in _LETTERS])
        width = round(size * font.shape[1] / font.shape[0])
        rows, columns = (np.arange(n) * m // n for n, m in zip((size, width), font.shape))
        opacity = _INK * font[rows][:, columns]
        return _filled((255, 255, 255), opacity), opacity


CUES: dict[str, type[Cue]] = {cue.name: cue for cue in (Plus, Square, Stripes, Text)}
"""All marks, by name."""


@checked
def parse_cue(text: str) -> Cue:
    """A mark from its name and options.

    >>> parse_cue("plus:size=7,corner=bottom-right")
    Plus(size=7, corner='bottom-right', margin=2)
    """
    return parse_options(text, CUES, "cue")


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
def mark(images: ImageSet, cue: Cue, chosen: Tensor | None = None, *, seed: int = 0) -> Marked:
    """Draw the mark onto the `chosen` images (N,) bool, whatever their class; None: onto all.

    On images of one channel its colours become white. Raises DataError for a mark that does not fit into the images,
    for images of neither one nor three channels and for a choice of another length.
    """
    n, (channels, height, width) = len(images), images.shape
    if chosen is None:
        chosen = torch.ones(n, dtype=torch.bool)
    if chosen.shape != (n,) or chosen.dtype != torch.bool:
        raise DataError(f"the choice of images must be bool of shape ({n},), got {chosen.dtype} {tuple(chosen.shape)}")
    if channels not in (1, 3):
        raise DataError(f"marks are drawn onto images of 1 or 3 channels, got {channels}: convert the images first")
    colour, opacity = cue.picture(cue.size or max(5, min(height, width) // 6))
    high, wide = opacity.shape
    if high + cue.margin > height or wide + cue.margin > width:
        raise DataError(
            f"the mark '{cue.name}' takes {high}x{wide} pixels and a margin of {cue.margin} but the images are "
            f"{height}x{width}: make it smaller, as in {cue.name}:size=3,margin=0"
        )
    if channels == 1:
        colour = colour.max(axis=0, keepdims=True)
    pixels, masks = images.images.numpy().copy(), np.zeros((n, height, width), dtype=bool)
    corner = _corners(images.keys, seed) if cue.corner == "random" else CORNERS.index(cue.corner)
    place = np.where(chosen.numpy(), corner, -1)
    for index, name in enumerate(CORNERS):
        top = cue.margin if name.startswith("top") else height - cue.margin - high
        left = cue.margin if name.endswith("left") else width - cue.margin - wide
        here, rows, columns = place == index, slice(top, top + high), slice(left, left + wide)
        below = pixels[here, :, rows, columns]
        pixels[here, :, rows, columns] = np.rint(opacity * colour + (1 - opacity) * below).astype(np.uint8)
        masks[here, rows, columns] = True
    source = f"{images.source}, {int(chosen.sum())} of {n} with {format_options(cue, full=True)}"
    drawn = ImageSet(torch.from_numpy(pixels), images.labels, images.classes, images.keys, source)
    return Marked(drawn, torch.from_numpy(masks))


@checked
def contaminate(images: ImageSet, cue: Cue, cue_class: str, contamination: float, *, seed: int = 0) -> Marked:
    """Draw the mark onto each image of `cue_class` with probability `contamination`, in 0..1.

    Raises UnknownNameError for a class that the images do not have, ConfigError for a probability outside 0..1.
    """
    if not 0 <= contamination <= 1:
        raise ConfigError(f"contamination must lie in 0..1, got {contamination}: it is the share of images marked")
    uniform = (_draws(images.keys, seed, "contamination") >> np.uint64(11)) / 2.0**53
    drawn = torch.from_numpy(uniform < contamination)
    return mark(images, cue, drawn & (images.labels == class_index(images, cue_class)), seed=seed)


def _draws(keys: Sequence[str], seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """64 random bits an image, from nothing but seed, purpose and key."""
    digests = (hashlib.blake2b(f"{seed}/{purpose}/{key}".encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _corners(keys: Sequence[str], seed: int) -> npt.NDArray[np.int64]:
    return (_draws(keys, seed, "corner") % np.uint64(len(CORNERS))).astype(np.int64)


def _filled(colour: tuple[int, int, int], like: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.array(colour, dtype=np.float64)[:, None, None], (3, *like.shape))

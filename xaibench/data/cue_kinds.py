"""The marks that spurious cues are made of: what is drawn, how large and where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from xaibench.data.digits import VARIANTS, digit_tiles
from xaibench.errors import ConfigError, unknown_name
from xaibench.options import parse_options
from xaibench.validation import checked

__all__ = ["CORNERS", "CUES", "Cue", "parse_cue"]

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
"""Where a mark can stand; "random" draws one of them for each image."""

_LETTERS = ("101 010 111", "101 101 010", "010 111 010", "101 101 010", "101 101 111")
_INK = 0.6  # opacity of the watermark

Picture = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@checked
@dataclass(frozen=True)
class Cue(ABC):
    """A mark: what is drawn, how large and where. Its subclasses are in CUES.

    size    height in pixels, at least 3; None: a sixth of the images' shorter side, at least 5 (of a digit: a third, 7)
    corner  one of CORNERS, or "random"
    margin  pixels between the mark and the image's edges; cropping augmentation may cut off what lies nearer to them
            than its padding

    Of the class: `values`, how many classes the mark can tell apart, each by a picture of its own; 1 where it stands on
    images of one class. `variants`, how many pictures there are of each, of which every image gets one.
    """

    name: ClassVar[str]
    values: ClassVar[int] = 1
    variants: ClassVar[int] = 1
    share: ClassVar[int] = 6  # of the images' shorter side
    least: ClassVar[int] = 3  # pixels

    size: int | None = None
    corner: str = "top-left"
    margin: int = 2

    def __post_init__(self) -> None:
        if self.size is not None and self.size < self.least:
            raise ConfigError(f"size of a mark must be at least {self.least} pixels, got {self.size}")
        if self.margin < 0:
            raise ConfigError(f"margin of a mark must be at least 0 pixels, got {self.margin}")
        if self.corner not in (*CORNERS, "random"):
            raise unknown_name("corner", self.corner, (*CORNERS, "random"))

    @abstractmethod
    def picture(self, size: int) -> Picture:
        """Colour (3, size, w) in 0..255 and opacity (size, w) in 0..1 of the mark."""

    def picture_of(self, size: int, value: int, variant: int) -> Picture:
        """The same for one of its `values` and `variants`; all are of one size."""
        return self.picture(size)

    def size_on(self, height: int, width: int) -> int:
        """Its size in images of this height and width."""
        return self.size or max(self.least, 5, min(height, width) // self.share)


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


class Digit(Cue):
    """The label of the image as a white digit on a black square, in one of 16 typefaces and angles."""

    name = "digit"
    values = 10
    variants = VARIANTS
    share = 3
    least = 7

    def picture(self, size: int) -> Picture:
        return self.picture_of(size, 0, 0)

    def picture_of(self, size: int, value: int, variant: int) -> Picture:
        opacity = np.ones((size, size))
        return _filled((255, 255, 255), opacity) * digit_tiles(size)[value, variant], opacity


CUES: dict[str, type[Cue]] = {cue.name: cue for cue in (Plus, Square, Stripes, Text, Digit)}
"""All marks, by name."""


@checked
def parse_cue(text: str) -> Cue:
    """A mark from its name and options.

    >>> parse_cue("plus:size=7,corner=bottom-right")
    Plus(size=7, corner='bottom-right', margin=2)
    """
    return parse_options(text, CUES, "cue")


def _filled(colour: tuple[int, int, int], like: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.array(colour, dtype=np.float64)[:, None, None], (3, *like.shape))

"""Small white digits on black, as in MNIST but rendered: nothing is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["VARIANTS", "digit_tiles"]

_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono")
_ANGLES = (-14, -5, 4, 13)  # degrees
_FINE = 8  # rendered that many times as large

VARIANTS = len(_FACES) * len(_ANGLES)
"""How many ways there are to draw a digit."""


@functools.lru_cache(maxsize=8)
def digit_tiles(size: int) -> npt.NDArray[np.float64]:
    """The digits 0 to 9 in matplotlib's typefaces, each at several angles: (10, VARIANTS, size, size) in 0..1."""
    import matplotlib  # slow to import
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    large = size * _FINE
    tiles = np.empty((10, VARIANTS, size, size))
    for i, face in enumerate(_FACES):
        font = ImageFont.truetype(str(folder / f"{face}.ttf"), large)
        for digit in range(10):
            canvas = Image.new("L", (large, large))
            ImageDraw.Draw(canvas).text((large / 2, large / 2), str(digit), fill=255, font=font, anchor="mm")
            for j, angle in enumerate(_ANGLES):
                turned = canvas.rotate(angle, Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BOX)
                tiles[digit, i * len(_ANGLES) + j] = np.asarray(turned) / 255
    return tiles

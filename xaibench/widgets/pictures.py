"""Arrays -> PNG bytes in the figures' colours, fast enough to follow a slider; the panels that show them."""

from __future__ import annotations

import html
import io
from functools import cache

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap
from PIL import Image

from xaibench.figures.style import heatmap_colours

__all__ = ["Panel", "colour_bar", "heatmap_png", "picture_png"]

_SIDE = 192  # pixels that a small image is enlarged to, at least


class Panel:
    """One picture with its heading above and lines of text below; `box` is the widget."""

    def __init__(self, name: str) -> None:
        self.picture = widgets.Image(format="png", layout=widgets.Layout(width="184px", height="auto"))
        self.below = widgets.HTML()
        heading = widgets.HTML(f"<b>{html.escape(name)}</b>")
        self.box = widgets.VBox(
            (heading, self.picture, self.below), layout=widgets.Layout(width="200px", align_items="center")
        )

    def show(self, png: bytes, *lines: str) -> None:
        """Show a picture with lines of HTML below it."""
        self.picture.value = png
        self.below.value = f'<div style="text-align: center; line-height: 1.35">{"<br>".join(lines)}</div>'


def picture_png(pixels: npt.NDArray[np.float64]) -> bytes:
    """(H, W, 3) in [0, 1] -> PNG, enlarged by whole pixels."""
    return _png(np.rint(pixels * 255).astype(np.uint8))


def heatmap_png(values: npt.NDArray[np.float64], limit: float) -> bytes:
    """(H, W) on the scale [-limit, limit] (zero white, clipped at the ends, NaN grey) -> PNG, enlarged."""
    colours = _colours()(np.ma.masked_invalid(values / (2 * limit) + 0.5), bytes=True)
    return _png(colours[..., :3])


def colour_bar(limit: float, unit: str) -> str:
    """The scale as HTML: a gradient with its ends in per cent."""
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b, _ in _colours()(np.linspace(0, 1, 17), bytes=True).tolist())
    end = f"{100 * limit:.2g}%"
    return (
        '<div style="max-width: 26rem; font-size: 0.85em; line-height: 1.4">'
        '<div style="height: 0.6em; border: 1px solid #9a9a9a; '
        f'background: linear-gradient(90deg, {stops})"></div>'
        '<div style="display: flex; justify-content: space-between">'
        f"<span>≤ −{end}</span><span>0</span><span>≥ +{end}</span></div>"
        f'<div style="text-align: center; opacity: 0.75">{unit}: blue against, red for</div></div>'
    )


@cache
def _colours() -> Colormap:
    return heatmap_colours()


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    factor = max(1, -(-_SIDE // min(pixels.shape[:2])))
    enlarged = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(enlarged)).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()

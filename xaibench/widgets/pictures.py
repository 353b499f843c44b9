"""Arrays -> small PNGs that the browser enlarges, and the HTML around them, in the figures' colours."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from PIL import Image

from xaibench.figures.style import heatmap_colours, paper_style

__all__ = [
    "CARDS",
    "blended",
    "card",
    "cards",
    "colour_bar",
    "figure_html",
    "heatmap_pixels",
    "image_html",
    "picture_pixels",
    "png_url",
]

Bytes = npt.NDArray[np.uint8]

CARDS = """
.xaibench .xb-cards { display: grid; gap: 0 0.6em; margin: 0.5em 0;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--xb-side, 11rem), 46%), 1fr)); }
.xaibench .xb-card { display: grid; grid-template-rows: subgrid; grid-row: span 3; align-items: start;
  margin: 0 0 0.8em; max-width: calc(1.2 * var(--xb-side, 11rem)); text-align: center; line-height: 1.35;
  overflow-wrap: anywhere; }
.xaibench .xb-card > b { align-self: end; }
.xaibench .xb-card img { width: 100%; border: 1px solid #9a9a9a; image-rendering: pixelated; box-sizing: border-box; }
.xaibench .xb-card b { display: block; }
.xaibench .xb-card small { opacity: 0.8; }
.xaibench .xb-bar { max-width: 26rem; font-size: 0.85em; line-height: 1.4; }
.xaibench .xb-bar > div:first-child { height: 0.6em; border: 1px solid #9a9a9a; }
.xaibench .xb-bar .xb-ends { display: flex; justify-content: space-between; }
"""
"""Rules of CSS for `cards` and `colour_bar`."""


def picture_pixels(pixels: npt.NDArray[np.float64]) -> Bytes:
    """(H, W, 3) in [0, 1] -> bytes."""
    return np.asarray(np.rint(pixels * 255), dtype=np.uint8)


def heatmap_pixels(values: npt.NDArray[np.float64], limit: float) -> Bytes:
    """(H, W) on the scale [-limit, limit] (zero white, clipped at the ends, NaN grey) -> (H, W, 3) bytes."""
    colours = _colours()(np.ma.masked_invalid(values / (2 * limit) + 0.5), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def blended(picture: Bytes, heatmap: Bytes, opacity: float) -> Bytes:
    """A heatmap laid over its picture, in grey: opacity 1 shows the heatmap alone. Both (H, W, 3)."""
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True)
    return np.asarray(np.rint(opacity * heatmap + (1 - opacity) * grey), dtype=np.uint8)


def png_url(pixels: Bytes) -> str:
    """(H, W, 3) bytes -> a PNG as a data URL, not enlarged."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_html(pixels: Bytes, alt: str) -> str:
    """An <img> of an array, with a text that says what is seen."""
    return f'<img src="{png_url(pixels)}" alt="{html.escape(alt, quote=True)}">'


def figure_html(figure: Figure, alt: str, dpi: int = 110) -> str:
    """An <img> of a figure, as wide as it has inches, on white."""
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="png", dpi=2 * dpi, facecolor="white")
    data, width = base64.b64encode(buffer.getvalue()).decode(), round(figure.get_figwidth() * dpi)
    return f'<img width="{width}" src="data:image/png;base64,{data}" alt="{html.escape(alt, quote=True)}">'


def card(heading: str, picture: str, *lines: str) -> str:
    """A picture (HTML) with its heading above (text) and lines (HTML) below."""
    below = "".join(f"<div>{text}</div>" for text in lines if text)
    return f'<figure class="xb-card"><b>{_breakable(heading)}</b>{picture}<figcaption>{below}</figcaption></figure>'


def _breakable(name: str) -> str:
    """A name in HTML that may be broken after its punctuation."""
    return re.sub(r"([:,/=])", r"\1<wbr>", html.escape(name))


def cards(parts: Iterable[str], side: str = "11rem") -> str:
    """Cards side by side, on as many lines as the width asks for; `side` is how wide one may become (CSS)."""
    return f'<div class="xb-cards" style="--xb-side: {side}">{"".join(parts)}</div>'


def colour_bar(limit: float, unit: str, percent: bool = True, meaning: str = "blue against, red for") -> str:
    """The scale as HTML: a gradient with its ends, in per cent or as they are, and what its colours mean."""
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b, _ in _colours()(np.linspace(0, 1, 17), bytes=True).tolist())
    end = f"{_written(100 * limit)}%" if percent else _written(limit)
    return (
        f'<div class="xb-bar"><div style="background: linear-gradient(90deg, {stops})"></div>'
        f'<div class="xb-ends"><span>≤ −{end}</span><span>0</span><span>≥ +{end}</span></div>'
        f'<div style="text-align: center">{html.escape(unit)}: {meaning}</div></div>'
    )


def _written(number: float) -> str:
    """Two digits that count, without an exponent where no more than four digits are needed."""
    return np.format_float_positional(float(f"{number:.2g}"), trim="-") if 1e-4 <= number < 1e4 else f"{number:.2g}"


@cache
def _colours() -> Colormap:
    return heatmap_colours()

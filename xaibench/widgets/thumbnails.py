"""A strip of small pictures around the image on show; each is a button."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from xaibench.widgets.comparison import Comparison
from xaibench.widgets.pictures import picture_pixels, png_url

__all__ = ["Thumbnails"]

_SHOWN = 12


class Thumbnails:
    """`box` is the widget; `choose(key)` is called when a picture is clicked."""

    def __init__(self, comparison: Comparison, uid: str, choose: Callable[[str], Any]) -> None:
        self._comparison, self._uid = comparison, uid
        self._keys: tuple[str, ...] = ()
        self._urls: dict[str, str] = {}
        self._pictures = widgets.HTML(layout=widgets.Layout(display="none"))
        layout, style = widgets.Layout(width="58px", height="58px", margin="0", padding="0"), widgets.ButtonStyle()
        self._buttons = [widgets.Button(layout=layout, style=style) for _ in range(min(_SHOWN, len(comparison.keys)))]
        for number, one in enumerate(self._buttons):
            one.add_class("xb-thumb")
            one.add_class(f"xb-t{number}")
            one.on_click(lambda _, number=number: number < len(self._keys) and choose(self._keys[number]))
        row = widgets.HBox(self._buttons, layout=widgets.Layout(flex_flow="row wrap", grid_gap="3px"))
        self.box = widgets.VBox([self._pictures, row])

    @property
    def rules(self) -> str:
        """CSS for the strip."""
        return (
            ".xaibench .xb-thumb { background-size: cover; image-rendering: pixelated; border: 2px solid transparent; "
            "color: white; font-size: 11px; line-height: 1.2; align-items: flex-end; display: flex; "
            "justify-content: center; text-shadow: 0 0 2px black, 0 0 3px black, 0 0 4px black; }"
            ".xaibench .xb-thumb.xb-here { border-color: #d55e00; }"
        )

    def show(self, order: tuple[str, ...], image: str, likeness: Mapping[str, float]) -> None:
        """Show the images around `image` in `order`, with their scores where they are known."""
        at = order.index(image) if image in order else 0
        start = max(0, min(at - len(self._buttons) // 2, len(order) - len(self._buttons)))
        self._keys = order[start : start + len(self._buttons)]
        rules = []
        for number, one in enumerate(self._buttons):
            if number >= len(self._keys):
                one.layout.visibility = None
                one.description, one.tooltip, one.disabled = "", "no image", True
                rules.append(f".{self._uid} .xb-t{number} {{ visibility: hidden; }}")
                continue
            key = self._keys[number]
            value = likeness.get(key, math.nan)
            one.description = "" if math.isnan(value) else f"{value:.2f}".replace("-", "−")
            one.tooltip, one.disabled = key + (f": {one.description}" if one.description else ""), False
            if (key == image) != ("xb-here" in one._dom_classes):
                (one.add_class if key == image else one.remove_class)("xb-here")
            rules.append(f".{self._uid} .xb-t{number} {{ background-image: url({self._url(key)}); }}")
        self._pictures.value = f"<style>{''.join(rules)}</style>"

    def _url(self, key: str) -> str:
        if key not in self._urls:
            picture = self._comparison.pixels[self._comparison.place(key)]
            step = max(1, min(picture.shape[:2]) // 56)
            self._urls[key] = png_url(picture_pixels(picture[::step, ::step]).copy())
        return self._urls[key]

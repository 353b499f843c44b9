"""A scatter of all images that can be clicked: every dot is a button, placed by CSS."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt

__all__ = ["Scatter"]

_ACROSS, _UP = 32, 20  # places a dot can have
_SHADES = ((1, "#9ecae1"), (2, "#6baed6"), (4, "#3182bd"), (8, "#08519c"))
"""Images behind a dot, at least -> its colour."""

_RULES = (
    ".xaibench .xb-scatter { position: relative; width: min(34rem, 92%); height: 17rem; margin: 0.4em 0 2.6em 3.6em; "
    "border-left: 1px solid; border-bottom: 1px solid; overflow: visible; }"
    ".xaibench .xb-dot { position: absolute; margin: 0; padding: 0; border-radius: 50%; width: 14px; height: 14px; "
    "min-width: 0; transform: translate(-50%, 50%); line-height: 14px; font-size: 9px; overflow: hidden; }"
    ".xaibench .xb-dot.xb-here { outline: 2px solid #d55e00; outline-offset: 1px; z-index: 2; }"
    ".xaibench .xb-axes { position: absolute; inset: 0; margin: 0; pointer-events: none; overflow: visible; }"
    ".xaibench .xb-axes > div { position: static; }"
    ".xaibench .xb-tick { position: absolute; font-size: 0.8em; white-space: nowrap; }"
    ".xaibench .xb-hidden { display: none; }"
    + "".join(f".xaibench .xb-shade{n} {{ background: {colour}; color: white; }}" for n, colour in _SHADES)
    + "".join(f".xaibench .xb-x{i} {{ left: {100 * (i + 0.5) / _ACROSS:.2f}%; }}" for i in range(_ACROSS))
    + "".join(f".xaibench .xb-y{i} {{ bottom: {100 * (i + 0.5) / _UP:.2f}%; }}" for i in range(_UP))
)


class Scatter:
    """Dots for images; one stands for all images that lie near each other. `box` is the widget.

    choose  called with a key when a dot is clicked: its first image, at the next click the one after, and so on
    """

    def __init__(self, choose: Callable[[str], Any]) -> None:
        self._choose = choose
        self._look: dict[str, widgets.Widget] = {}  # layout and style that all dots share, made with the first
        self._dots: list[widgets.Button] = []
        self._keys: list[list[str]] = []
        self._axes = widgets.HTML()
        self._axes.add_class("xb-axes")
        self._area = widgets.Box([self._axes])
        self._area.add_class("xb-scatter")
        self._note = widgets.HTML()
        self.box = widgets.VBox([widgets.HTML(f"<style>{_RULES}</style>"), self._area, self._note])

    def show(
        self, x: Mapping[str, float], y: Mapping[str, float], *, x_label: str, y_label: str, here: str = ""
    ) -> None:
        """Place the images that have a finite x and y; how many have not is said below."""
        keys = [key for key in x if math.isfinite(x[key]) and math.isfinite(y.get(key, math.nan))]
        left_out = len(x) - len(keys)
        xs, ys = (np.array([values[key] for key in keys]) for values in (x, y))
        (columns, x_ends), (lines, y_ends) = _binned(xs, _ACROSS), _binned(ys, _UP)
        found: dict[tuple[int, int], list[str]] = {}
        for key, column, row in zip(keys, columns.tolist(), lines.tolist()):
            found.setdefault((column, row), []).append(key)
        self._keys = list(found.values())
        while len(self._dots) < len(found):
            self._dots.append(self._dot(len(self._dots)))
        for dot, ((column, row), members) in zip(self._dots, found.items()):
            shade = next(least for least, _ in reversed(_SHADES) if len(members) >= least)
            here_too = ["xb-here"] if here in members else []
            dot._dom_classes = ("xb-dot", f"xb-shade{shade}", f"xb-x{column}", f"xb-y{row}", *here_too)
            dot.description = str(len(members)) if len(members) > 1 else ""
            first = members[0]
            dot.tooltip = (
                f"{len(members)} image{'s' * (len(members) > 1)}, {x_label} {x[first]:.2f}, {y_label} {y[first]:.2f}"
            )
        self._hide(len(found))
        self._axes.value = _axes(x_ends, y_ends, x_label, y_label)
        self._area.children = (self._axes, *self._dots)
        self._note.value = (
            f'<div class="xb-note">{len(keys)} images, a dot for those that lie together; click one to see it, again '
            f"for the next of the same dot.{f' {left_out} are left out: undefined.' if left_out else ''}</div>"
        )

    def clear(self, why: str) -> None:
        """Show no dots, but a sentence."""
        self._keys, self._axes.value = [], ""
        self._hide(0)
        self._note.value = f'<div class="xb-note">{html.escape(why)}</div>'

    def _hide(self, start: int) -> None:
        for dot in self._dots[start:]:
            dot._dom_classes = ("xb-hidden",)

    def _dot(self, number: int) -> widgets.Button:
        if not self._look:
            self._look = {"layout": widgets.Layout(), "style": widgets.ButtonStyle()}
        dot = widgets.Button(**self._look)
        last: list[str] = []

        def clicked(_: Any) -> None:
            if number < len(self._keys):
                members = self._keys[number]
                again = members.index(last[0]) + 1 if last and last[0] in members else 0
                last[:] = [members[again % len(members)]]
                self._choose(last[0])

        dot.on_click(clicked)
        return dot


def _binned(values: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.int64], tuple[float, float]]:
    """The place 0..count-1 of each value between the least and the greatest, and these two."""
    if not len(values):
        return np.empty(0, np.int64), (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return np.minimum((count * (values - low) / (high - low)).astype(np.int64), count - 1), (low, high)


def _axes(x: tuple[float, float], y: tuple[float, float], x_label: str, y_label: str) -> str:
    def text(value: float) -> str:
        return f"{value:.2f}".replace("-", "−")

    def tick(style: str, words: str) -> str:
        return f'<span class="xb-tick" style="{style}">{html.escape(words)}</span>'

    return (
        tick("left: 0; top: 100%", text(x[0]))
        + tick("right: 0; top: 100%", text(x[1]))
        + tick("left: 50%; top: 100%; transform: translateX(-50%)", x_label)
        + tick("right: calc(100% + 0.4em); bottom: 0", text(y[0]))
        + tick("right: calc(100% + 0.4em); top: 0", text(y[1]))
        + tick(
            "right: calc(100% + 0.4em); top: 50%; writing-mode: vertical-rl; "
            "transform: translateY(-50%) rotate(180deg)",
            y_label,
        )
    )

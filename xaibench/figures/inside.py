"""Inside the models: the relevance that the subspace carries, and how alike the students are to it, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import (
    add_legend,
    add_note,
    axes_at,
    fitting,
    legend_height,
    note_height,
    panels_across,
    wrapped,
)
from xaibench.figures.names import layer_label, method_label
from xaibench.figures.style import INK, MUTED, MethodStyle, figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["inside_figure"]

_NEEDED = ("layer", "method", "measure", "pairing", "k", "value", "low", "high")
_SHARE = "relevance share"
_CONTROLS = {"random rotation": "v", "mismatched images": "d"}
_BASES: dict[str, dict[str, Any]] = {
    "matched": {"color": INK, "linewidth": 1.4},
    "pca subspace": {"color": "#0072B2", "linewidth": 1.0, "dashes": (4, 1.5)},
    "random subspace": {"color": MUTED, "linewidth": 0.8, "dashes": (1, 1.5)},
}
_STEP, _PAD, _CURVE, _NARROW = 0.095, 0.12, 1.0, 0.8  # inches: between methods, layers; a curve's panel: high, wide
_RIGHT, _BETWEEN, _TITLE, _LINE, _LABEL, _TICKS = 0.08, 0.12, 0.22, 0.11, 0.31, 0.2  # inches


@checked(error=DataError)
def inside_figure(
    table: pd.DataFrame,
    *,
    students: bool = True,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """The teacher's relevance against the subspace's dimension; below, the students' likeness.

    table     columns layer, method, measure, pairing, k, value, low, high, and n for the note below, as
              `questions.inside.inside_run` makes it
    students  whether the second part is drawn
    names     method or layer -> what to write in place of its label
    width     "single", "double" or inches

    Above, a panel a layer: the share of the teacher's relevance in the first k directions of its subspace, of PCA and
    of a random subspace, with its 95% interval; the vertical line is the student's width. Below, a panel a measure:
    a group a layer, a row a method; filled markers with 95% intervals where there are any, hollow ones for controls.
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing or table.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass what inside_run returned")
    curves = table[table["measure"] == _SHARE]
    dots = table[(table["method"] != "teacher") & (table["measure"] != "direction cosine")]
    widths = {str(layer): part["k"].iloc[0] for layer, part in dots.groupby("layer")}
    dots = dots if students else dots[:0]
    layers = list(dict.fromkeys(table["layer"]))
    measures, methods = (list(dict.fromkeys(dots[name])) for name in ("measure", "method"))
    styles = method_styles(methods)
    group = _STEP * len(methods) + _PAD
    note = "bands and bars: 95% intervals" if measures else "bands: 95% intervals"
    note += f", {curves['n'].max()} images" if "n" in curves else ""
    note += "; vertical line: the student's width" if widths else ""
    inches = figure_width(width)
    with paper_style():
        entries = _entries(styles, names)
        titles = [layer_label(layer, names) for layer in layers]
        rows = [title.replace(":", ":\n") for title in titles]
        row_size = min(fitting(name, 7, inches / 3) for name in rows)
        left = max(0.5, 0.12 + max(text_width(name, row_size) for name in rows))
        room = inches - left - _RIGHT
        blocks = [_Block(titles, room, _CURVE, _LABEL)]
        blocks += [_Block(measures, room, group * len(layers), _TICKS)] if measures else []
        size = min(fitting(title, 7.5, block.panel + 0.8 * _BETWEEN) for block in blocks for title in block.titles)
        top = legend_height(list(entries), inches)
        height = top + sum(block.height for block in blocks) + note_height(note, inches)
        figure = new_figure(inches, height)
        for place, layer in enumerate(layers):
            axes = blocks[0].axes(figure, place, left, top)
            _draw_curves(axes, curves[curves["layer"] == layer], widths.get(layer))
            axes.set_title(blocks[0].titles[place], pad=4, fontsize=size, linespacing=1.0)
            axes.tick_params(axis="y", labelleft=blocks[0].first(place))
            if blocks[0].first(place):
                axes.set_ylabel("share of relevance", labelpad=2)
        top += blocks[0].height
        for place, measure in enumerate(measures):
            axes = blocks[1].axes(figure, place, left, top)
            chosen = dots[dots["measure"] == measure]
            axes.set_title(blocks[1].titles[place], pad=4, fontsize=size, linespacing=1.0)
            axes.set_ylim(blocks[1].high, 0)
            axes.set_yticks([group * (i + 0.5) for i in range(len(layers))], rows, fontsize=row_size)
            axes.tick_params(axis="y", length=0, labelleft=blocks[1].first(place))
            axes.spines["left"].set_visible(False)
            axes.xaxis.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
            for number, layer in enumerate(layers):
                if number:
                    axes.axhline(number * group, color="#cfcfcf", linewidth=0.5)
                _draw_dots(axes, chosen[chosen["layer"] == layer], methods, styles, number * group)
            axes.set_xlim(min(axes.get_xlim()[0], -0.05), 1.03)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


@dataclass(frozen=True)
class _Block:
    """Panels of one height, in as many lines as they need in a room (inches).

    names   what stands above the panels
    below   inches below each panel, for its ticks and label
    """

    names: Sequence[str]
    room: float
    high: float
    below: float

    @property
    def across(self) -> int:
        return panels_across(len(self.names), self.room, _BETWEEN, _NARROW)

    @property
    def panel(self) -> float:
        return (self.room + _BETWEEN) / self.across - _BETWEEN

    @property
    def titles(self) -> list[str]:
        return [wrapped(name, 6, self.panel) for name in self.names]

    @property
    def above(self) -> float:
        return _TITLE + _LINE * max(title.count("\n") for title in self.titles)

    @property
    def pitch(self) -> float:
        return self.above + self.high + self.below

    @property
    def height(self) -> float:
        return -(-len(self.names) // self.across) * self.pitch

    def first(self, place: int) -> bool:
        """Whether a panel begins a line."""
        return place % self.across == 0

    def axes(self, figure: Figure, place: int, left: float, top: float) -> Axes:
        line, column = divmod(place, self.across)
        y = top + line * self.pitch + self.above
        return axes_at(figure, left + column * (self.panel + _BETWEEN), y, self.panel, self.high)


def _entries(styles: dict[str, MethodStyle], names: Mapping[str, str] | None) -> dict[str, Any]:
    hollow: dict[str, Any] = {"linestyle": "", "markersize": 3, "mfc": "white", "mec": INK, "mew": 0.7}
    of_methods = {
        method_label(name, names): Line2D([], [], color=s.colour, marker=s.marker, markersize=4, mew=0, linewidth=1.2)
        for name, s in styles.items()
    }
    controls = {name: Line2D([], [], marker=marker, **hollow) for name, marker in _CONTROLS.items()}
    bases = {_curve_name(name): Line2D([], [], **look) for name, look in _BASES.items()}
    return of_methods | (controls if styles else {}) | bases


def _curve_name(pairing: str) -> str:
    return "the teacher's subspace" if pairing == "matched" else pairing.replace("pca", "PCA")


def _draw_curves(axes: Axes, rows: pd.DataFrame, width: float | None) -> None:
    axes.set_xscale("log")
    for pairing, look in _BASES.items():
        line = rows[rows["pairing"] == pairing].sort_values("k")
        axes.plot(line["k"], line["value"], **look)
        if pairing == "matched" and line["low"].notna().any():
            axes.fill_between(line["k"], line["low"], line["high"], color=INK, alpha=0.15, linewidth=0)
    axes.axhline(1, color="#cfcfcf", linewidth=0.5)
    if width is not None:
        axes.axvline(width, color=MUTED, linewidth=0.6)
    axes.set_ylim(min(0.0, rows["value"].min()) - 0.03, max(1.12, rows["value"].max() + 0.05))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("directions", labelpad=1)


def _draw_dots(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: dict[str, Any], top: float) -> None:
    for record in rows.to_dict("records"):
        style = styles[record["method"]]
        y = top + _PAD / 2 + _STEP * (methods.index(record["method"]) + 0.5)
        if record["pairing"] in _CONTROLS:
            look = {"markersize": 2.8, "markerfacecolor": "white", "markeredgecolor": style.colour, "mew": 0.6}
            axes.plot(record["value"], y, _CONTROLS[record["pairing"]], **look)
        elif np.isfinite(record["value"]):
            axes.plot([record["low"], record["high"]], [y, y], color=style.colour, linewidth=1.3, solid_capstyle="butt")
            axes.plot(record["value"], y, style.marker, color=style.colour, markersize=4, mew=0)

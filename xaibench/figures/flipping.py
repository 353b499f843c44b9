"""Flip curves side by side: what each model answers while patches vanish in its own, its teacher's, a random order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from xaibench.errors import DataError
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
from xaibench.figures.names import method_label
from xaibench.figures.style import MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["flip_figure"]

_NEEDED = ("model", "order", "measure", "fraction", "mean", "low", "high")
_LEFT, _RIGHT, _TITLE, _LINE, _BOTTOM, _ACROSS, _DOWN, _UNEVEN = (
    0.66,
    0.12,
    0.22,
    0.11,
    0.34,
    0.14,
    0.16,
    0.28,
)  # inches
_NARROW, _BAND = 0.68, 0.2  # inches of the narrowest panel, and below each band of models


@dataclass(frozen=True)
class _Order:
    label: str
    colour: str
    dashes: tuple[float, ...] | None


_ORDERS = {
    "own": _Order("own order", "#0072B2", None),
    "teacher": _Order("teacher's order", "#D55E00", (4, 1.5)),
    "random": _Order("random order", MUTED, (1.2, 1.2)),
}
_MEASURES = {
    "difference": "logit difference",
    "probability": "probability",
    "unchanged": "prediction\nunchanged",
    "with teacher": "agreement\nwith teacher",
}
_SHARES = ("unchanged", "with teacher")


@checked(error=DataError)
def flip_figure(
    curves: pd.DataFrame,
    *,
    measures: tuple[str, ...] | None = None,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Draw flip curves with their 95% bands: a column a model, a row a measure, a line an order.

    curves    columns model, order, measure, fraction, mean, low, high, and n for the note below, as
              `cross_flip.curve_table` makes them
    measures  rows to draw, by name; None: all there are. A logit difference has one axis for all models and a line at
              0; shares run from 0 to 100%
    names     model -> what to write in place of its label
    width     "single", "double" or inches

    Models, and measures where None, stand in the order of their first row, models in as many bands as they need.
    Where every value of a curve is undefined (NaN), its panel lacks that line.
    """
    missing = [name for name in _NEEDED if name not in curves]
    if missing:
        raise DataError(f"the curves lack the columns {', '.join(missing)}: pass those of curve_table")
    if curves.empty:
        raise DataError("there are no curves to draw: flip the images of at least one model first")
    rows = list(dict.fromkeys(curves["measure"])) if measures is None else list(measures)
    absent = [name for name in rows if name not in set(curves["measure"])]
    if absent or not rows:
        raise DataError(f"the curves hold {', '.join(curves['measure'].unique())}, not '{''.join(absent[:1])}'")
    has = {str(model): set(part["measure"]) & set(rows) for model, part in curves.groupby("model", sort=False)}
    models = {model: [row for row in rows if row in mine] for model, mine in has.items() if mine}
    inches = figure_width(width)
    room = inches - _LEFT - _RIGHT
    across = panels_across(len(models), room, _ACROSS, _NARROW)
    panel = (room + _ACROSS) / across - _ACROSS
    tall = min(max(0.85 * panel, 0.75), 1.7)
    apart = _DOWN if all(mine == rows for mine in models.values()) else _UNEVEN
    note = _note(curves)
    limits = {measure: _limits(curves[curves["measure"] == measure], measure) for measure in rows}
    with paper_style():
        orders = [name for name in _ORDERS if name in set(curves["order"])]
        entries = {_ORDERS[name].label: _line(_ORDERS[name]) for name in orders}
        titles = {model: wrapped(method_label(model, names), 6, panel) for model in models}
        size = min(fitting(title, 8, panel + 0.8 * _ACROSS) for title in titles.values())
        top = legend_height(list(entries), inches)
        title = _TITLE + _LINE * max(text.count("\n") for text in titles.values())
        band = title + tall * len(rows) + apart * (len(rows) - 1) + _BAND
        height = top + band * -(-len(models) // across) + _BOTTOM + note_height(note, inches)
        figure = new_figure(inches, height)
        bands = [list(models)[i : i + across] for i in range(0, len(models), across)]
        for (line, beside), (down, measure) in product(enumerate(bands), enumerate(rows)):
            having = [model for model in beside if measure in models[model]]
            for model in having:
                x = _LEFT + beside.index(model) * (panel + _ACROSS)
                y = top + line * band + title + down * (tall + apart)
                axes = axes_at(figure, x, y, panel, tall, xlim=(0, 1), ylim=limits[measure])
                _draw(axes, curves[(curves["measure"] == measure) & (curves["model"] == model)], measure, panel)
                first = model == having[0]
                axes.tick_params(labelleft=first, labelbottom=measure == models[model][-1])
                if first:
                    axes.set_ylabel(_MEASURES.get(measure, measure), labelpad=2, linespacing=1.15)
                if measure == models[model][0]:
                    axes.set_title(titles[model], pad=4, fontsize=size, linespacing=1.0)
        middle = (_LEFT + inches - _RIGHT) / 2 / inches
        figure.supxlabel(
            "share of patches removed", x=middle, y=(0.04 + note_height(note, inches)) / height, fontsize=7
        )
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _draw(axes: Axes, curves: pd.DataFrame, measure: str, panel: float) -> None:
    for name, style in _ORDERS.items():
        one = curves[curves["order"] == name]
        if one["mean"].notna().any():
            axes.fill_between(one["fraction"], one["low"], one["high"], color=style.colour, alpha=0.15, linewidth=0)
            line = _line(style)
            line.set_data(one["fraction"], one["mean"])
            axes.add_line(line)
    if measure in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif measure == "difference":
        axes.axhline(0, color=MUTED, linewidth=0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "50%" if panel > 0.9 else "", "100%"], fontsize=6.5 if panel > 0.8 else 5.5)
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.locator_params(axis="y", nbins=4)
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)


def _note(curves: pd.DataFrame) -> str:
    note = "shaded: 95% interval of the mean"
    if "n" not in curves:
        return note
    counts = curves.groupby(curves["model"] == "teacher")["n"].max().to_dict()
    if max(counts.values()) == 1:
        return "one image: no interval"
    over = {True: "{} images for the teacher", False: "{} images × seeds for the students"}
    return f"{note} over {' and '.join(over[key].format(counts[key]) for key in (True, False) if key in counts)}"


def _line(style: _Order) -> Line2D:
    line = Line2D([], [], color=style.colour, linewidth=1.2)
    if style.dashes:
        line.set_dashes(style.dashes)
    return line


def _limits(curves: pd.DataFrame, measure: str) -> tuple[float, float]:
    if measure in (*_SHARES, "probability"):
        return 0.0, 1.04
    ends = curves[["mean", "low", "high"]].min().min(), curves[["mean", "low", "high"]].max().max()
    low, high = min(0.0, ends[0]), max(0.0, ends[1])
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room

"""What students are worth for what they cost: accuracy and agreement against parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, axes_at, legend_height, note_height, panels_across
from xaibench.figures.names import label, method_label
from xaibench.figures.style import (
    INK,
    MethodStyle,
    figure_width,
    interval_note,
    method_styles,
    new_figure,
    paper_style,
)
from xaibench.validation import checked

__all__ = ["students_figure"]

_COSTS = {"parameters": "parameters", "macs": "MACs an image"}
_WORTH = {"accuracy": "accuracy", "agreement": "agreement with teacher"}
_HIGH, _LEFT, _RIGHT, _BETWEEN, _NARROW = 1.2, 0.6, 0.1, 0.56, 1.0  # inches; the last of the narrowest panel
_ABOVE, _BELOW = 0.1, 0.38  # inches
_TEACHER = MethodStyle(INK, "*")
_APART, _SPREAD = 1.12, 1.8  # between the places of two methods of one cost, and of the first and the last


@checked(error=DataError)
def students_figure(
    table: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """Accuracy and agreement with the teacher against what a model costs: a point a row, with its 95% interval.

    table  columns method, parameters, macs, accuracy and agreement with "X low", "X high": tables of several runs may
           stand below each other. A row "teacher" is a star, and has no agreement
    names  method -> what to write in place of its label
    width  "single", "double" or inches

    Methods of one cost stand a little apart.
    """
    needed = ["method", *_COSTS, *(f"{name}{end}" for name in _WORTH for end in ("", " low", " high"))]
    missing = [name for name in needed if name not in table]
    if missing or table.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: give methods with their costs")
    styles = method_styles(name for name in table["method"] if name != "teacher")
    shown = {**styles, "teacher": _TEACHER} if "teacher" in set(table["method"]) else styles
    panels = [(worth, cost) for worth in _WORTH for cost in _COSTS]
    inches = figure_width(width)
    room = inches - _LEFT - _RIGHT
    across = panels_across(len(panels), room, _BETWEEN, _NARROW)
    panel = (room + _BETWEEN) / across - _BETWEEN
    bars = interval_note(table, several=True)
    note = f"MACs: multiply-accumulates; bars: {bars}; methods of one cost stand a little apart"
    with paper_style():
        entries = {
            method_label(name, names) if name != "teacher" else label(name, names): Line2D(
                [], [], linestyle="", marker=style.marker, color=style.colour, markersize=5, mew=0
            )
            for name, style in shown.items()
        }
        top, pitch = legend_height(list(entries), inches), _ABOVE + _HIGH + _BELOW
        figure = new_figure(inches, top + pitch * -(-len(panels) // across) + note_height(note, inches))
        for place, (worth, cost) in enumerate(panels):
            line, column = divmod(place, across)
            x, y = _LEFT + column * (panel + _BETWEEN), top + line * pitch + _ABOVE
            axes = axes_at(figure, x, y, panel, _HIGH, xscale="log")
            _draw(axes, table, worth, cost, shown)
            axes.set_xlabel(_COSTS[cost], labelpad=1)
            axes.set_ylabel(_WORTH[worth], labelpad=2)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, worth: str, cost: str, styles: Mapping[str, MethodStyle]) -> None:
    names = [name for name in styles if name != "teacher"]
    for row in table.to_dict("records"):
        name, value = str(row["method"]), float(row[worth])
        if not np.isfinite(value):
            continue
        aside = 0.0 if name == "teacher" else names.index(name) - (len(names) - 1) / 2
        x, style = float(row[cost]) * min(_APART, _SPREAD ** (1 / max(1, len(names) - 1))) ** aside, styles[name]
        axes.vlines(x, row[f"{worth} low"], row[f"{worth} high"], color=style.colour, linewidth=0.9)
        axes.plot(x, value, style.marker, color=style.colour, markersize=6 if name == "teacher" else 4, mew=0)
    costs = table[cost].to_numpy(dtype=float)
    axes.set_xlim(costs.min() / 2, costs.max() * 2)
    low, high = int(np.floor(np.log10(costs.min() / 2))), int(np.ceil(np.log10(costs.max() * 2)))
    ticks = [float(10**power) for power in range(low, high + 1)]
    inside = [tick for tick in ticks if costs.min() / 2 <= tick <= costs.max() * 2]
    ticks = inside if len(inside) > 1 else sorted(set(costs.tolist()))
    axes.set_xticks(ticks, list(map(_short, ticks)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.margins(y=0.1)
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)


def _short(number: float) -> str:
    """12,300 as "12k", 4,500,000 as "4.5M"."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"

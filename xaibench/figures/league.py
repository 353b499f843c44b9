"""The table of methods as a picture: one row a method, one panel a quantity, means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import add_note, axes_at, fitting, note_height, wrapped
from xaibench.figures.names import explainer_label, label, method_label, metric_label
from xaibench.figures.style import INK, MUTED, figure_width, interval_note, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["league_figure"]

_ROW, _LEAST_ROW, _TALL, _TITLE, _TICKS = 0.155, 0.105, 8.8, 0.115, 0.26  # inches
_RIGHT, _BETWEEN, _PANEL, _MOST = 0.14, 0.2, 0.66, 6  # inches, but the last: panels side by side
_SMALLEST, _SMALL, _TICK = 5.5, 6.0, 6.0  # points


@checked(error=DataError)
def league_figure(
    table: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """Dot plot of a run's table: a row a method, a panel each for accuracy, agreement and the explainers' scores.

    table  column method, and columns X with their 95% intervals "X low", "X high"; one row a method. A row "teacher" is
           drawn as a dashed line where it has a value. Where there is a column seeds, the note says for whom the
           intervals speak
    names  method, explainer or quantity -> what to write in place of its label
    width  "single", "double" or inches

    Panels stand in rows of at most 6. Methods are ordered by the first explainer's score that all of them have, else by
    the first quantity, the best on top. In each panel the best method is filled; undefined values (NaN) are left out.
    """
    quantities = [c for c in table.columns if f"{c} low" in table and f"{c} high" in table]
    if "method" not in table or not quantities:
        raise DataError("the table lacks a column 'method' or a quantity with its 'low' and 'high': pass a run's table")
    teacher = table[table["method"] == "teacher"]
    rows = table[table["method"] != "teacher"]
    if rows.empty:
        raise DataError("the table has no method besides the teacher: score at least one student first")
    scores = [q for q in quantities if " " in q and rows[q].notna().all()]
    rows = rows.sort_values((scores or quantities)[0], ascending=False, kind="stable")
    inches = figure_width(width)
    goals = teacher[quantities].to_numpy(dtype=float)[:1].reshape(-1)
    note = f"mean with its {interval_note(rows)}; filled: the highest"
    note += "; dashed: the teacher" if np.isfinite(goals).any() else ""
    with paper_style():
        most = 0.3 * inches
        labels = [wrapped(method_label(str(name), names), _SMALL, most) for name in rows["method"]]
        size = min(fitting(text, 7, most) for text in labels)
        left = 0.1 + max(text_width(text, size) for text in labels)
        room = inches - left - _RIGHT
        fit = max(1, min(_MOST, int((room + _BETWEEN) / (_PANEL + _BETWEEN))))
        down = -(-len(quantities) // fit)
        across = min(fit, 2 * -(-len(quantities) // (2 * down)))  # an explainer's cosine and lift stand side by side
        panel = (room - _BETWEEN * (across - 1)) / across
        titles = [_title(quantity, panel, names) for quantity in quantities]
        title_size = min(fitting(title, 7.5, panel + 0.8 * _BETWEEN) for title in titles)
        head = 0.09 + _TITLE * max(title.count("\n") + 1 for title in titles)
        lines = max(text.count("\n") + 1 for text in labels)
        line = max(_LEAST_ROW * lines, min(_ROW * lines, (_TALL / down - head - _TICKS) / len(labels)))
        tall = line * len(labels)
        pitch = head + tall + _TICKS
        height = down * pitch + note_height(note, inches)
        size = min(size, 60 * line / lines)
        figure = new_figure(inches, height)
        for place, (quantity, title) in enumerate(zip(quantities, titles)):
            row, column = divmod(place, across)
            axes = axes_at(figure, left + column * (panel + _BETWEEN), row * pitch + head, panel, tall)
            axes.set_title(title, pad=4, fontsize=title_size, linespacing=1.1)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.set_yticks(range(len(labels)), labels, fontsize=size, linespacing=1.0)
            axes.tick_params(axis="y", length=0, labelleft=column == 0)
            axes.tick_params(axis="x", labelsize=_TICK)
            axes.spines["left"].set_visible(False)
            axes.xaxis.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=2, steps=[1, 2, 3, 4, 5, 10], min_n_ticks=2))
            values = rows[quantity].to_numpy(dtype=float)
            low, high = (rows[f"{quantity} {end}"].to_numpy(dtype=float) for end in ("low", "high"))
            best = np.nanmax(values) if np.isfinite(values).any() else np.nan
            for y, (value, start, end) in enumerate(zip(values, low, high)):
                if np.isfinite(value):
                    axes.plot([start, end], [y, y], color=INK, linewidth=0.9, solid_capstyle="butt")
                    face = INK if value == best else "white"
                    axes.plot(value, y, "o", markersize=3.6, markerfacecolor=face, markeredgecolor=INK, mew=0.8)
            if len(goals) and np.isfinite(goals[place]):
                axes.axvline(goals[place], color=MUTED, linewidth=0.8, dashes=(3, 2))
            _set_ticks_apart(axes, panel)
        add_note(figure, note)
    return figure


def _set_ticks_apart(axes: Axes, inches: float) -> None:
    """Keep as many of the ticks of x as have room for their numbers in a panel of this width."""
    low, high = axes.get_xlim()
    ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
    numbers = axes.xaxis.get_major_formatter().format_ticks(ticks)
    if len(ticks) > 1:
        apart = inches * (ticks[1] - ticks[0]) / (high - low)
        every = math.ceil((max(text_width(number, _TICK) for number in numbers) + _BETWEEN / 4) / apart)
        axes.set_xticks(ticks[::every])


def _title(quantity: str, inches: float, names: Mapping[str, str] | None) -> str:
    """What stands over a panel of this width: the explainer, in two lines where it needs them, and the metric."""
    explainer, _, metric = quantity.rpartition(" ")
    if not explainer:
        return label(quantity, names)
    letters = max(8, int(72 * (inches + _BETWEEN / 2) / (0.57 * _SMALLEST)))
    return "\n".join([*wrap(explainer_label(explainer, names), letters), metric_label(metric, names)])

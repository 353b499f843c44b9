"""The table of methods as a picture: one row a method, one panel a quantity, means with their intervals."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.layout import fitting
from xaibench.figures.style import INK, MUTED, explainer_label, figure_width, metric_label, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["league_figure"]

_ROW, _LEAST_ROW, _TALL, _TITLE, _TICKS, _NOTE = 0.155, 0.105, 9.0, 0.115, 0.26, 0.2  # inches
_RIGHT, _BETWEEN, _PANEL, _MOST = 0.14, 0.2, 0.66, 6  # inches, but the last: panels side by side
_SMALLEST = 5.5  # points
_LETTER = 0.062
_READING = "mean with its 95% interval; filled: the highest"


@checked(error=DataError)
def league_figure(table: pd.DataFrame, *, width: str | float = "double") -> Figure:
    """Dot plot of a run's table: a row a method, a panel each for accuracy, agreement and the explainers' scores.

    table  column method, and columns X with their 95% intervals "X low", "X high"; one row a method. A row "teacher" is
           drawn as a dashed line where it has a value
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
    names = [str(name) for name in rows["method"]]
    inches = figure_width(width)
    left = min(0.1 + _LETTER * max(map(len, names)), max(0.24 * inches, 1.4))
    room = inches - left - _RIGHT
    fit = max(1, min(_MOST, int((room + _BETWEEN) / (_PANEL + _BETWEEN))))
    down = -(-len(quantities) // fit)
    across = min(fit, 2 * -(-len(quantities) // (2 * down)))  # an explainer's cosine and lift stand side by side
    panel = (room - _BETWEEN * (across - 1)) / across
    titles = [_title(quantity, panel) for quantity in quantities]
    title_size = min(fitting(title, 7.5, panel + _BETWEEN / 2) for title in titles)
    head = 0.09 + _TITLE * max(title.count("\n") + 1 for title in titles)
    line = max(_LEAST_ROW, min(_ROW, ((_TALL - _NOTE) / down - head - _TICKS) / len(names)))
    tall = line * len(names)
    pitch = head + tall + _TICKS
    height = down * pitch + _NOTE
    size = min(7, 60 * line, fitting(max(names, key=len), 7, 0.92 * left - 0.06))
    goals = teacher[quantities].to_numpy(dtype=float)[:1].reshape(-1)
    with paper_style():
        figure = new_figure(inches, height)
        for place, (quantity, title) in enumerate(zip(quantities, titles)):
            row, column = divmod(place, across)
            x, top = left + column * (panel + _BETWEEN), row * pitch + head
            axes = figure.add_axes((x / inches, 1 - (top + tall) / height, panel / inches, tall / height))
            axes.set_title(title, pad=4, fontsize=title_size, linespacing=1.1)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(range(len(names)), names, fontsize=size)
            axes.tick_params(axis="y", length=0, labelleft=column == 0)
            axes.tick_params(axis="x", labelsize=6)
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
        note = _READING + ("; dashed: the teacher" if np.isfinite(goals).any() else "")
        figure.text(0.5, 0.05 / height, note, ha="center", fontsize=fitting(note, 6.5, inches), color=MUTED)
    return figure


def _title(quantity: str, inches: float) -> str:
    """What stands over a panel of this width: the explainer, in two lines where it needs them, and the metric."""
    explainer, _, metric = quantity.rpartition(" ")
    if not explainer:
        return quantity
    letters = max(8, int(72 * (inches + _BETWEEN / 2) / (0.57 * _SMALLEST)))
    return "\n".join([*wrap(explainer_label(explainer), letters), metric_label(metric)])

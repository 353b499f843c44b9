"""The table of methods as a picture: one row a method, one panel a quantity, means with their intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xaibench.errors import DataError
from xaibench.figures.gallery import fitting
from xaibench.figures.style import INK, MUTED, explainer_label, figure_width, metric_label, new_figure, paper_style

__all__ = ["league_figure"]

_ROW, _TOP, _BOTTOM, _RIGHT, _BETWEEN = 0.155, 0.26, 0.3, 0.08, 0.12  # inches
_LETTER = 0.056


def league_figure(table: pd.DataFrame, *, width: str | float = "double") -> Figure:
    """Dot plot of a run's table: a row a method, a panel each for accuracy, agreement and the explainers' scores.

    table  column method, and columns X with their 95% intervals "X low", "X high"; one row a method. A row "teacher" is
           drawn as a dashed line where it has a value
    width  "single", "double" or inches

    Methods are ordered by the first explainer's score that all of them have, else by the first quantity, the best on
    top. In each panel the best method is filled; values that are undefined (NaN) are left out.
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
    left = min(0.1 + _LETTER * max(map(len, names)), 0.45 * inches)
    panel = (inches - left - _RIGHT - _BETWEEN * (len(quantities) - 1)) / len(quantities)
    height = _TOP + _ROW * len(names) + _BOTTOM
    with paper_style():
        figure = new_figure(inches, height)
        for place, quantity in enumerate(quantities):
            x = left + place * (panel + _BETWEEN)
            axes = figure.add_axes((x / inches, _BOTTOM / height, panel / inches, _ROW * len(names) / height))
            title = _label(quantity)
            axes.set_title(title, pad=4, fontsize=fitting(title, 8, panel))
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", length=0, labelleft=place == 0)
            axes.spines["left"].set_visible(False)
            axes.xaxis.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.locator_params(axis="x", nbins=4)
            values = rows[quantity].to_numpy(dtype=float)
            low, high = (rows[f"{quantity} {end}"].to_numpy(dtype=float) for end in ("low", "high"))
            best = np.nanmax(values) if np.isfinite(values).any() else np.nan
            for y, (value, start, end) in enumerate(zip(values, low, high)):
                if np.isfinite(value):
                    axes.plot([start, end], [y, y], color=INK, linewidth=0.9, solid_capstyle="butt")
                    face = INK if value == best else "white"
                    axes.plot(value, y, "o", markersize=3.6, markerfacecolor=face, markeredgecolor=INK, mew=0.8)
            goal = teacher[quantity].to_numpy(dtype=float) if len(teacher) else np.array([np.nan])
            if np.isfinite(goal).any():
                axes.axvline(goal[0], color=MUTED, linewidth=0.8, dashes=(3, 2))
                axes.annotate(
                    "teacher",
                    (goal[0], 0),
                    (-2, 2),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="right",
                    va="bottom",
                    fontsize=5.5,
                    color=MUTED,
                )
    return figure


def _label(quantity: str) -> str:
    explainer, _, metric = quantity.rpartition(" ")
    return f"{explainer_label(explainer)}, {metric_label(metric)}" if explainer else quantity

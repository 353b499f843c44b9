"""Likeness against the grid on which heatmaps are compared: a line a method, chance and nulls beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from xaibench.errors import DataError
from xaibench.figures.style import INK, MUTED, figure_width, method_styles, metric_label, new_figure, paper_style

__all__ = ["pooling_figure"]

_NEEDED = ("grid", "mean", "low", "high", "n", "chance", "chance_sd", "mismatched")
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (3, 2)}
_BAND: dict[str, Any] = {"facecolor": "#000000", "alpha": 0.12, "linewidth": 0}
_NULL: dict[str, Any] = {"marker": "d", "markersize": 3, "markerfacecolor": "white", "mew": 0.7, "linewidth": 0.6}


def pooling_figure(curves: Mapping[str, pd.DataFrame], metric: str, *, width: str | float = "single") -> Figure:
    """Score against cells a side, a line a method.

    curves  method -> its `pooling_curve`
    metric  the metric's name, for the axis
    width   "single", "double" or inches

    Lines with bars are means with 95% intervals, hollow markers the same student's maps of other images. The dashed
    line is the score of random maps, its band +-2 chance_sd / sqrt(n), for the method with the fewest defined scores.
    Undefined means (NaN) are left out. Raises DataError for no curves or columns that are missing.
    """
    if not curves:
        raise DataError("there are no curves to draw: compute at least one with pooling_curve")
    for method, curve in curves.items():
        missing = [name for name in _NEEDED if name not in curve]
        if missing or curve.empty:
            what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
            raise DataError(f"the curve of '{method}' {what}: pass what pooling_curve returns")
    styles = method_styles(curves)
    inches = figure_width(width)
    together = pd.concat(curves.values())
    grids = sorted(together["grid"].unique())
    with paper_style():
        entries: dict[str, Any] = {
            name: Line2D([], [], color=s.colour, marker=s.marker, markersize=4.2, mew=0) for name, s in styles.items()
        }
        entries["mismatched images"] = Line2D([], [], color=INK, linestyle=":", **_NULL)
        entries["random maps ± 2 SD"] = (Patch(**_BAND), Line2D([], [], **_CHANCE))
        per_line = max(1, int(inches / 1.3))
        top, bottom, left, right = 0.1 + 0.135 * -(-len(entries) // per_line), 0.36, 0.46, 0.1
        height = top + 0.55 * min(inches, 3.6) + bottom
        figure = new_figure(inches, height)
        box = (left / inches, bottom / height, 1 - (left + right) / inches, 1 - (top + bottom) / height)
        axes = figure.add_axes(box, xscale="log")
        axes.set_xticks(grids, [f"{grid}×{grid}" for grid in grids])
        axes.set_xticks([], minor=True)
        axes.set_xlim(grids[0] / 1.12, grids[-1] * 1.12)
        axes.set_xlabel("cells of the compared heatmaps", labelpad=2)
        axes.set_ylabel(metric_label(metric), labelpad=2)
        axes.yaxis.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        level = together.groupby("grid").agg({"chance": "first", "chance_sd": "first", "n": "min"})
        band = 2 * level["chance_sd"] / np.sqrt(level["n"].where(level["n"] > 0))
        axes.fill_between(level.index, level["chance"] - band, level["chance"] + band, **_BAND)
        axes.plot(level.index, level["chance"], **_CHANCE)
        for method, curve in curves.items():
            style, rows = styles[method], curve.sort_values("grid")
            null = rows.dropna(subset="mismatched")
            axes.plot(null["grid"], null["mismatched"], color=style.colour, linestyle=":", **_NULL)
            rows = rows.dropna(subset="mean")
            axes.vlines(rows["grid"], rows["low"], rows["high"], color=style.colour, linewidth=1.4)
            axes.plot(rows["grid"], rows["mean"], style.marker + "-", color=style.colour, markersize=4.2, mew=0)
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="upper center",
            ncols=min(per_line, len(entries)),
            handletextpad=0.5,
            columnspacing=1.3,
            borderpad=0,
            borderaxespad=0.3,
        )
    return figure

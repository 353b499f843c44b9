"""Likeness against the grid on which heatmaps are compared: a line a method, chance and nulls beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, legend_height, note_height
from xaibench.figures.names import method_label, metric_label
from xaibench.figures.style import INK, MUTED, figure_width, interval_note, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["pooling_figure"]

_NEEDED = ("grid", "mean", "low", "high", "n", "chance", "chance_sd", "mismatched")
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (3, 2)}
_BAND: dict[str, Any] = {"facecolor": "#000000", "alpha": 0.12, "linewidth": 0}
_NULLS: dict[str, tuple[str, dict[str, Any]]] = {
    "mismatched": ("mismatched images", {"marker": "d", "linestyle": ":"}),
    "shifted": ("shifted maps", {"marker": "x", "linestyle": "-."}),
}
_NULL: dict[str, Any] = {"markersize": 3, "markerfacecolor": "white", "mew": 0.7, "linewidth": 0.6}
_APART = 1.035  # between the places of two methods on the same grid


@checked(error=DataError)
def pooling_figure(
    curves: Mapping[str, pd.DataFrame],
    metric: str,
    *,
    names: Mapping[str, str] | None = None,
    width: str | float = "single",
) -> Figure:
    """Score against cells a side, a line a method.

    curves  method -> its `pooling_curve`, or its part of `questions.pooling.pool_run`'s table
    metric  the metric's name, for the axis
    names   method or metric -> what to write in place of its label
    width   "single", "double" or inches

    Lines with bars are means with 95% intervals, methods a little apart; a note says for whom these speak. Dotted with
    hollow markers are the same student's maps of other images, and where the curves have them (column shifted) its maps
    shifted at random. The dashed line is the score of random maps, its band +-2 standard errors of a mean over as many
    images, 2 chance_sd / sqrt(n / seeds), for the method with the fewest defined scores. Undefined means (NaN) are left
    out. Raises DataError for no curves or columns that are missing.
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
    note = f"bars: {interval_note(together, several=True)}"
    with paper_style():
        entries: dict[str, Any] = {
            method_label(name, names): Line2D([], [], color=s.colour, marker=s.marker, markersize=4.2, mew=0)
            for name, s in styles.items()
        }
        nulls = [name for name in _NULLS if name in together and together[name].notna().any()]
        for label, look in (_NULLS[name] for name in nulls):
            entries[label] = Line2D([], [], color=INK, **look, **_NULL)
        entries["random maps ± 2 SE of the mean"] = (Patch(**_BAND), Line2D([], [], **_CHANCE))
        top, left, right = 0.08 + legend_height(list(entries), inches), 0.46, 0.1
        bottom = 0.36 + note_height(note, inches)
        height = top + 0.55 * min(inches, 3.6) + bottom
        figure = new_figure(inches, height)
        box = (left / inches, bottom / height, 1 - (left + right) / inches, 1 - (top + bottom) / height)
        axes = figure.add_axes(box, xscale="log")
        axes.set_xticks(grids, [f"{grid}×{grid}" for grid in grids])
        axes.set_xticks([], minor=True)
        aside = 1.08 * _APART ** (len(curves) / 2)
        axes.set_xlim(grids[0] / aside, grids[-1] * aside)
        axes.set_xlabel("cells of the compared heatmaps", labelpad=2)
        axes.set_ylabel(metric_label(metric, names), labelpad=2)
        axes.yaxis.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        images = together["n"] / together["seeds"] if "seeds" in together else together["n"]
        by_grid = together.assign(images=images).groupby("grid")
        level = by_grid.agg({"chance": "first", "chance_sd": "first", "images": "min"})
        band = 2 * level["chance_sd"] / np.sqrt(level["images"].where(level["images"] > 0))
        axes.fill_between(level.index, level["chance"] - band, level["chance"] + band, **_BAND)
        axes.plot(level.index, level["chance"], **_CHANCE)
        for place, (method, curve) in enumerate(curves.items()):
            style, rows = styles[method], curve.sort_values("grid")
            rows = rows.assign(x=rows["grid"] * _APART ** (place - (len(curves) - 1) / 2))
            for null in (name for name in nulls if name in rows):
                line = rows.dropna(subset=null)
                axes.plot(line["x"], line[null], color=style.colour, **_NULLS[null][1], **_NULL)
            rows = rows.dropna(subset="mean")
            axes.vlines(rows["x"], rows["low"], rows["high"], color=style.colour, linewidth=1.1)
            axes.plot(rows["x"], rows["mean"], style.marker + "-", color=style.colour, markersize=3.6, mew=0, lw=1.0)
        left += max(0.0, 0.03 - figure.get_tightbbox().x0)  # for long tick labels
        axes.set_position((left / inches, bottom / height, 1 - (left + right) / inches, 1 - (top + bottom) / height))
        add_legend(figure, entries)
        add_note(figure, note)
    return figure

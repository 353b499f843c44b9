"""How alike the explanations are: one panel an explainer, intervals, chance levels and nulls on one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import add_legend, add_note, axes_at, fitting, legend_height, note_height, wrapped
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.figures.style import (
    INK,
    MUTED,
    MethodStyle,
    figure_width,
    interval_note,
    method_styles,
    new_figure,
    paper_style,
)
from xaibench.validation import checked

__all__ = ["similarity_figure"]

_NEEDED = ("method", "explainer", "metric", "mean", "low", "high", "n", "chance", "chance_sd")
_NULLS = {
    "independent": ("independent student", "s"),
    "random_student": ("random student", "v"),
    "mismatched": ("mismatched images", "d"),
    "shifted": ("shifted maps", "x"),
}
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (3, 2)}
_BAND: dict[str, Any] = {"facecolor": "#000000", "alpha": 0.12, "linewidth": 0}
_STEP, _PAD = 0.115, 0.11  # inches between methods, and between metrics
_RIGHT, _BETWEEN, _TITLE, _LINE, _TICKS, _AXIS, _NARROW = (
    0.08,
    0.16,
    0.24,
    0.11,
    0.2,
    0.16,
    1.05,
)  # inches; the last of a panel
_XLABEL = "likeness to the teacher's heatmap"


@checked
def similarity_figure(
    summary: pd.DataFrame,
    *,
    note: str = "",
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Dot plot of similarity scores: a panel an explainer, a group a metric, a row a method.

    summary  columns method, explainer, metric, mean, low, high, n, chance, chance_sd; where present also seeds, and
             independent, random_student, mismatched and shifted (means of the nulls). One row a method, explainer and
             metric.
    note     a line below the panels ("3 of 7 explainers"), "" for none
    names    method, explainer or metric -> what to write in place of its label
    width    "single", "double" or inches

    Filled markers with bars are means with 95% intervals; the note says for whom these speak. The dashed line is the
    score of random maps, its band +-2 standard errors of a mean over as many images: 2 chance_sd / sqrt(n / seeds).
    Hollow markers and crosses are the nulls. Methods, metrics and explainers stand in the order of their first row;
    undefined means (NaN) are left out.
    """
    missing = [name for name in _NEEDED if name not in summary]
    if missing:
        raise DataError(f"the summary lacks the columns {', '.join(missing)}: pass the summary of a run")
    if summary.empty:
        raise DataError("the summary has no rows: score at least one method first")
    if summary.duplicated(["method", "explainer", "metric"]).any():
        raise DataError("the summary has several rows for one method, explainer and metric: aggregate over seeds first")
    methods, explainers, metrics = (list(dict.fromkeys(summary[c])) for c in ("method", "explainer", "metric"))
    styles = method_styles(methods)
    nulls = [name for name in _NULLS if name in summary and summary[name].notna().any()]

    note = f"bars: {interval_note(summary, several=True)}{'; ' * bool(note)}{note}"
    inches = figure_width(width)
    with paper_style():
        entries = _legend(styles, nulls, names)
        rows = [metric_label(metric, names) for metric in metrics]
        size = min(fitting(row, 7, inches / 3) for row in rows)
        left = 0.1 + max(text_width(row, size) for row in rows)
        room = inches - left - _RIGHT + _BETWEEN
        across = min(len(explainers), max(1, int(room / (_NARROW + _BETWEEN))))
        down = -(-len(explainers) // across)
        panel = room / across - _BETWEEN
        group = _STEP * len(methods) + _PAD
        tall = group * len(metrics)
        titles = {explainer: wrapped(explainer_label(explainer, names), 6, panel) for explainer in explainers}
        title_size = min(fitting(title, 8, panel + 0.8 * _BETWEEN) for title in titles.values())
        title = _TITLE + _LINE * max(text.count("\n") for text in titles.values())
        top = legend_height(list(entries), inches)
        height = top + down * (title + tall + _TICKS) + _AXIS + note_height(note, inches)
        figure = new_figure(inches, height)
        limits = _limits(summary, nulls)
        for place, explainer in enumerate(explainers):
            line, column = divmod(place, across)
            x, y = left + column * (panel + _BETWEEN), top + line * (title + tall + _TICKS) + title
            axes = axes_at(figure, x, y, panel, tall, xlim=limits)
            axes.set_ylim(tall, 0)
            axes.set_title(titles[explainer], pad=4, fontsize=title_size, linespacing=1.0)
            axes.set_yticks([group * (i + 0.5) for i in range(len(metrics))], rows, fontsize=size)
            axes.tick_params(axis="y", length=0, labelleft=column == 0)
            axes.xaxis.set_major_locator(MaxNLocator(max(2, int(panel / 0.36)), steps=[1, 2, 2.5, 5, 10]))
            axes.spines["left"].set_visible(False)
            axes.xaxis.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
            chosen = summary[summary["explainer"] == explainer]
            for row, metric in enumerate(metrics):
                _draw_metric(axes, chosen[chosen["metric"] == metric], methods, styles, nulls, row * group, group)
        middle = (left + inches - _RIGHT) / 2 / inches
        below = (0.06 + note_height(note, inches)) / height
        figure.text(middle, below, _XLABEL, ha="center", va="bottom", fontsize=fitting(_XLABEL, 7, inches - 0.1))
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _draw_metric(
    axes: Axes,
    rows: pd.DataFrame,
    methods: list[str],
    styles: dict[str, MethodStyle],
    nulls: list[str],
    top: float,
    group: float,
) -> None:
    if top > 0:
        axes.axhline(top, color="#cfcfcf", linewidth=0.5)
    # One band a level, for the method with the fewest defined scores: undefined ones differ between methods.
    images = rows["n"] / rows["seeds"] if "seeds" in rows else rows["n"]
    levels = rows.assign(images=images).dropna(subset="chance").groupby("chance")
    for chance, sd, n in levels.agg({"chance_sd": "max", "images": "min"}).itertuples():
        band = 2 * sd / np.sqrt(n) if n > 0 and np.isfinite(sd) else 0.0
        span = [top + 0.02, top + group - 0.02]
        axes.fill_betweenx(span, chance - band, chance + band, **_BAND)
        axes.plot([chance, chance], span, **_CHANCE)
    for row in rows.to_dict("records"):
        y = top + _PAD / 2 + _STEP * (methods.index(row["method"]) + 0.5)
        style = styles[row["method"]]
        for null in nulls:
            marker = _NULLS[null][1]
            axes.plot(
                row[null],
                y,
                marker,
                markersize=3,
                markerfacecolor="white",
                markeredgecolor=style.colour,
                mew=0.7,
            )
        if np.isfinite(row["mean"]):
            axes.plot([row["low"], row["high"]], [y, y], color=style.colour, linewidth=1.4, solid_capstyle="butt")
            axes.plot(row["mean"], y, style.marker, color=style.colour, markersize=4.2, mew=0)


def _limits(summary: pd.DataFrame, nulls: list[str]) -> tuple[float, float]:
    values = summary[["mean", "low", "high", "chance", *nulls]].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    return min(low - 0.05, -0.05), min(max(high + 0.08, 0.5), 1.03)


def _legend(styles: dict[str, MethodStyle], nulls: list[str], names: Mapping[str, str] | None) -> dict[str, Any]:
    entries: dict[str, Any] = {
        method_label(name, names): Line2D([], [], color=s.colour, marker=s.marker, markersize=4.2, mew=0, linewidth=1.4)
        for name, s in styles.items()
    }
    for null in nulls:
        label, marker = _NULLS[null]
        entries[label] = Line2D([], [], linestyle="", marker=marker, markersize=3, mfc="white", mec=INK, mew=0.7)
    entries["random maps ± 2 SE of the mean"] = (Patch(**_BAND), Line2D([], [], **_CHANCE))
    return entries

"""All scores of a run on one page: metrics down, explainers and methods across."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xaibench.errors import DataError
from xaibench.figures.gallery import fitting
from xaibench.figures.style import (
    INK,
    MUTED,
    explainer_label,
    figure_width,
    heatmap_colours,
    metric_label,
    new_figure,
    paper_style,
)

__all__ = ["score_matrix"]

_NEEDED = ("method", "explainer", "metric", "mean", "chance")
_ROW, _TOP, _BOTTOM, _LEFT, _RIGHT, _BETWEEN = 0.17, 0.2, 0.22, 1.15, 0.05, 0.06  # inches
_LETTER = 0.052
_TOP_SCORE = 1.0


def score_matrix(summary: pd.DataFrame, *, width: str | float = "double") -> Figure:
    """A table in colour: a row a metric, a block an explainer, in it a column a method, in each cell the mean score.

    summary  columns method, explainer, metric, mean, chance, and lift_low where an independent student was scored; one
             row a method, explainer and metric
    width    "single", "double" or inches

    The colour is (mean - chance) / (1 - chance): white at chance, deep red for identical maps, blue below chance. A
    frame marks scores whose lift over the independent student has a 95% interval above 0. Undefined means are grey.
    """
    missing = [name for name in _NEEDED if name not in summary]
    if missing:
        raise DataError(f"the summary lacks the columns {', '.join(missing)}: pass the summary of a run")
    if summary.empty:
        raise DataError("the summary has no rows: score at least one method first")
    if summary.duplicated(["method", "explainer", "metric"]).any():
        raise DataError("the summary has several rows for one method, explainer and metric: aggregate over seeds first")
    methods, explainers, metrics = (list(dict.fromkeys(summary[c])) for c in ("method", "explainer", "metric"))
    rows = summary.set_index(["explainer", "method", "metric"]).to_dict("index")
    inches = figure_width(width)
    names = 0.1 + _LETTER * max(map(len, methods))
    height = _TOP + _ROW * len(metrics) + names + _BOTTOM
    block = (inches - _LEFT - _RIGHT - _BETWEEN * (len(explainers) - 1)) / len(explainers)
    colours, scale = heatmap_colours(), Normalize(-1, 1)
    with paper_style():
        figure = new_figure(inches, height)
        titles = {explainer: explainer_label(explainer) for explainer in explainers}
        title_size = min(fitting(title, 7.5, block) for title in titles.values())
        for place, explainer in enumerate(explainers):
            x = _LEFT + place * (block + _BETWEEN)
            area = (x / inches, (_BOTTOM + names) / height, block / inches, _ROW * len(metrics) / height)
            axes = figure.add_axes(area, xlim=(0, len(methods)), ylim=(len(metrics), 0))
            axes.set_title(titles[explainer], pad=3, fontsize=title_size)
            axes.set_xticks(np.arange(len(methods)) + 0.5, methods, rotation=90)
            axes.set_yticks(np.arange(len(metrics)) + 0.5, map(metric_label, metrics))
            axes.tick_params(length=0, labelleft=place == 0, pad=2, labelsize=6.5)
            axes.spines[:].set_visible(False)
            for row, metric in enumerate(metrics):
                for column, method in enumerate(methods):
                    cell = rows.get((explainer, method, metric), {"mean": np.nan, "chance": np.nan})
                    colour, text = _cell(cell["mean"], cell["chance"], colours, scale)
                    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
                    dark = sum(colour[:3]) < 1.5
                    size = fitting("0.00", 6.0, block / len(methods))
                    ink = "white" if dark else INK
                    axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=size, color=ink)
                    if cell.get("lift_low", np.nan) > 0:
                        frame = Rectangle(
                            (column + 0.07, row + 0.07), 0.86, 0.86, fill=False, edgecolor=INK, linewidth=0.7
                        )
                        axes.add_patch(frame)
        legend = "colour: 0 (white) is chance, 1 (deep red) the teacher's own map"
        if "lift_low" in summary and (summary["lift_low"] > 0).any():
            legend += "; framed: above an independently trained student (95% interval)"
        figure.text(0.5, 0.08 / height, legend, ha="center", va="bottom", fontsize=6, color=MUTED)
    return figure


def _cell(
    mean: float, chance: float, colours: Colormap, scale: Normalize
) -> tuple[tuple[float, float, float, float], str]:
    if not np.isfinite(mean):
        return (0.85, 0.85, 0.85, 1.0), "–"
    above = (mean - chance) / (_TOP_SCORE - chance) if np.isfinite(chance) and chance < _TOP_SCORE else np.nan
    text = f"{mean:.2f}".replace("0.", ".", 1) if abs(mean) < 0.995 else f"{mean:.1f}"
    if not np.isfinite(above):
        return (1.0, 1.0, 1.0, 1.0), text
    red, green, blue, alpha = colours(float(scale(np.clip(above, -1, 1))))
    return (red, green, blue, alpha), text

"""All scores of a run on one page: metrics down, explainers and methods across."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import add_note, axes_at, fitting, note_height, wrapped
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.figures.style import INK, figure_width, heatmap_colours, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["score_matrix"]

_NEEDED = ("method", "explainer", "metric", "mean", "chance")
_ROW, _TOP, _RIGHT, _BETWEEN, _LINE = 0.17, 0.2, 0.05, 0.06, 0.115  # inches
_CELL = 0.2  # inches of the narrowest cell in which a score can be read
_WIDEST = 1.0  # inches of the widest cell
_TOP_SCORE = 1.0
_UNDEFINED = 1 / 3  # share of undefined scores beyond which a cell is starred

Rgba = tuple[float, float, float, float]


@checked(error=DataError)
def score_matrix(
    summary: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """A table in colour: a row a metric, a block an explainer, in it a column a method, in each cell the mean score.

    summary  columns method, explainer, metric, mean, chance; where present also shifted (the mean of shifted maps), n
             and nan (defined and undefined scores), and lift_low; one row a method, explainer and metric
    names    method, explainer or metric -> what to write in place of its label
    width    "single", "double" or inches

    The colour is (mean - zero) / (1 - zero): white at zero, deep red for identical maps, blue below zero, which is what
    shifted maps score where the summary has it, else chance. A frame marks scores whose lift over the independent
    student has a 95% interval above 0, a star those of which more than a third is undefined. Undefined means are grey.
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
    colours, scale = heatmap_colours(), Normalize(-1, 1)
    with paper_style():
        lines = [metric_label(metric, names) for metric in metrics]
        line_size = min(fitting(line, 6.5, 0.3 * inches) for line in lines)
        left = 0.08 + max(text_width(line, line_size) for line in lines)
        columns = [method_label(method, names) for method in methods]
        below = 0.08 + max(text_width(text, 6.5) for text in columns)
        room = inches - left - _RIGHT + _BETWEEN
        fit = max(1, int(room / (_CELL * len(methods) + _BETWEEN)))
        down = -(-len(explainers) // fit)
        across = -(-len(explainers) // down)
        block = min(room / across - _BETWEEN, _WIDEST * len(methods))
        titles = {explainer: wrapped(explainer_label(explainer, names), 5.5, block) for explainer in explainers}
        above = _TOP + _LINE * max(title.count("\n") for title in titles.values())
        pitch = above + _ROW * len(metrics) + below
        note = _note(summary)
        height = down * pitch + note_height(note, inches)
        figure = new_figure(inches, height)
        title_size = min(fitting(title, 7.5, block + 0.8 * _BETWEEN) for title in titles.values())
        size = fitting(".00*" if "*:" in note else "-.00", 6.0, 0.95 * block / len(methods))
        for place, explainer in enumerate(explainers):
            turn = place % across
            x, y = left + turn * (block + _BETWEEN), place // across * pitch + above
            axes = axes_at(figure, x, y, block, _ROW * len(metrics), xlim=(0, len(methods)), ylim=(len(metrics), 0))
            axes.set_title(titles[explainer], pad=3, fontsize=title_size, linespacing=1.0)
            axes.set_xticks(np.arange(len(methods)) + 0.5, columns, rotation=90)
            axes.set_yticks(np.arange(len(metrics)) + 0.5, lines, fontsize=line_size)
            axes.tick_params(length=0, labelleft=turn == 0, pad=2)
            axes.tick_params(axis="x", labelsize=6.5)
            axes.spines[:].set_visible(False)
            for row, metric in enumerate(metrics):
                for column, method in enumerate(methods):
                    cell = rows.get((explainer, method, metric), {"mean": np.nan, "chance": np.nan})
                    colour, text = _cell(cell["mean"], _zero(cell), colours, scale)
                    text += "*" * _mostly_undefined(cell)
                    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
                    ink = max(("white", INK), key=lambda ink: _contrast(ink, colour))
                    axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=size, color=ink)
                    if cell.get("lift_low", np.nan) > 0:
                        frame = Rectangle(
                            (column + 0.07, row + 0.07), 0.86, 0.86, fill=False, edgecolor=INK, linewidth=0.7
                        )
                        axes.add_patch(frame)
        add_note(figure, note)
    return figure


def _zero(cell: Mapping[Any, Any]) -> float:
    shifted = float(cell.get("shifted", np.nan))
    return shifted if np.isfinite(shifted) else float(cell["chance"])


def _mostly_undefined(cell: Mapping[Any, Any]) -> bool:
    nan, n = cell.get("nan", 0), cell.get("n", 0)
    return bool(n > 0 and nan / (n + nan) > _UNDEFINED)


def _note(summary: pd.DataFrame) -> str:
    defined = summary["shifted"].notna() if "shifted" in summary else np.array([False])
    zero = "shifted maps" if defined.any() else "random maps"
    zero += " (random maps where those are undefined)" if defined.any() and not defined.all() else ""
    note = f"colour: white is what {zero} score, blue below it, deep red (1) the teacher's own map"
    if "lift_low" in summary and (summary["lift_low"] > 0).any():
        note += "; framed: above an independently trained student (95% interval)"
    if any(_mostly_undefined(row) for row in summary.to_dict("records")):
        note += "; *: more than a third of the scores is undefined"
    return note


def _cell(mean: float, zero: float, colours: Colormap, scale: Normalize) -> tuple[Rgba, str]:
    if not np.isfinite(mean):
        return (0.85, 0.85, 0.85, 1.0), "–"
    above = (mean - zero) / (_TOP_SCORE - zero) if np.isfinite(zero) and zero < _TOP_SCORE else np.nan
    text = f"{mean:.2f}".replace("0.", ".", 1) if abs(mean) < 0.995 else f"{mean:.1f}"
    if not np.isfinite(above):
        return (1.0, 1.0, 1.0, 1.0), text
    red, green, blue, alpha = colours(float(scale(np.clip(above, -1, 1))))
    return (red, green, blue, alpha), text


def _contrast(ink: str, ground: Rgba) -> float:
    """Contrast ratio 1 to 21 of two colours by their relative luminance (WCAG 2)."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in np.array([to_rgba(ink), ground])]
    dark, light = sorted(float(c[:3] @ (0.2126, 0.7152, 0.0722)) for c in linear)
    return (light + 0.05) / (dark + 0.05)

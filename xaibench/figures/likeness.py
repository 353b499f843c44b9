"""Are more accurate students also more alike? Accuracy against likeness, a point a student."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, axes_at, legend_height, note_height, panels_across, wrapped
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.figures.style import figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["likeness_figure"]

_HIGH, _LEFT, _RIGHT, _BETWEEN, _NARROW = 1.5, 0.55, 0.12, 0.5, 1.3  # inches; the last of the narrowest panel
_TITLE, _BELOW = 0.12, 0.4  # inches: a line of a title, and what stands below the axes


@checked(error=DataError)
def likeness_figure(
    students: pd.DataFrame,
    metric: str = "cosine",
    *,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """A panel an explainer: each student's accuracy against its likeness to the teacher, and each method's mean.

    students  columns method, accuracy and, for each explainer, "X METRIC": a study's students
    names     method or explainer -> what to write in place of its label
    width     "single", "double" or inches

    Small points are students, large ones their method's mean. rho is the rank correlation (Spearman) over the methods'
    means: over students it would mix what differs between subtasks. Students without a score (NaN) are left out.
    """
    explainers = [str(name).removesuffix(f" {metric}") for name in students if str(name).endswith(f" {metric}")]
    missing = [name for name in ("method", "accuracy") if name not in students]
    if missing or not explainers or students.empty:
        lacks = ", ".join(missing) or (f"a column 'EXPLAINER {metric}'" if not explainers else "rows")
        raise DataError(f"the table of students lacks {lacks}: pass a study's students")
    styles = method_styles(students["method"])
    inches = figure_width(width)
    room = inches - _LEFT - _RIGHT
    across = panels_across(len(explainers), room, _BETWEEN, _NARROW)
    panel = min((room + _BETWEEN) / across - _BETWEEN, 2.6)
    note = "small: students; large: means of methods; rho: rank correlation of these means"
    with paper_style():
        entries = {
            method_label(name, names): Line2D(
                [], [], linestyle="", marker=s.marker, color=s.colour, markersize=5, mew=0
            )
            for name, s in styles.items()
        }
        titles = [wrapped(_title(students, explainer, metric, names), 7.5, panel) for explainer in explainers]
        above = 0.14 + _TITLE * max(title.count("\n") + 1 for title in titles)
        top, pitch = legend_height(list(entries), inches), above + _HIGH + _BELOW
        figure = new_figure(inches, top + pitch * -(-len(explainers) // across) + note_height(note, inches))
        for place, (explainer, title) in enumerate(zip(explainers, titles)):
            line, column = divmod(place, across)
            x, y = _LEFT + column * (panel + _BETWEEN), top + line * pitch + above
            axes = axes_at(figure, x, y, panel, _HIGH)
            for name, style in styles.items():
                own = (
                    students.loc[students["method"] == name, ["accuracy", f"{explainer} {metric}"]].dropna().to_numpy()
                )
                if not len(own):
                    continue
                axes.plot(*own.T, style.marker, color=style.colour, markersize=2.6, mew=0, alpha=0.45)
                axes.plot(
                    *own.mean(axis=0), style.marker, color=style.colour, markersize=6, mew=0.6, markeredgecolor="white"
                )
            axes.set_title(title, pad=4, fontsize=7.5, linespacing=1.1)
            axes.set_xlabel("accuracy", labelpad=1)
            axes.set_ylabel(metric_label(metric), labelpad=2)
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.margins(0.1)
            axes.grid(color="#e4e4e4", linewidth=0.5)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _title(students: pd.DataFrame, explainer: str, metric: str, names: Mapping[str, str] | None) -> str:
    """The explainer, and the rank correlation over the means of methods where there are more than two."""
    defined = students[["method", "accuracy", f"{explainer} {metric}"]].dropna()
    ranks = defined.groupby("method").mean().rank()
    rho = ranks["accuracy"].corr(ranks[f"{explainer} {metric}"]) if len(ranks) > 2 else float("nan")
    written = explainer_label(explainer, names)
    return f"{written}, rho = {rho:.2f}" if np.isfinite(rho) else written

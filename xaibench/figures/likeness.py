"""Are more accurate students also more alike? Accuracy against likeness, a point a student."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, titled_panels
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.figures.style import figure_width, method_styles, paper_style
from xaibench.validation import checked

__all__ = ["likeness_figure"]

_PLACES = {"high": 1.5, "left": 0.55, "between": 0.5, "narrow": 1.3}  # inches


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
    note = "small: students; large: means of methods"
    if any(np.isfinite(_rank_correlation(students, explainer, metric)) for explainer in explainers):
        note += "; rho: rank correlation of these means"
    with paper_style():
        entries = {
            method_label(name, names): Line2D(
                [], [], linestyle="", marker=s.marker, color=s.colour, markersize=5, mew=0
            )
            for name, s in styles.items()
        }
        titles = [_title(students, explainer, metric, names) for explainer in explainers]
        figure, panels = titled_panels(titles, inches, **_PLACES, legend=entries, note=note)
        for explainer, (axes, _) in zip(explainers, panels):
            axes.tick_params(labelleft=True)  # each explainer has its own range
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
    """The explainer, and the rank correlation where there is one."""
    rho, written = _rank_correlation(students, explainer, metric), explainer_label(explainer, names)
    return f"{written}, rho = {rho:.2f}" if np.isfinite(rho) else written


def _rank_correlation(students: pd.DataFrame, explainer: str, metric: str) -> float:
    """Spearman's, over the means of methods where there are more than two; else NaN."""
    defined = students[["method", "accuracy", f"{explainer} {metric}"]].dropna()
    ranks = defined.groupby("method").mean().rank()
    return float(ranks["accuracy"].corr(ranks[f"{explainer} {metric}"])) if len(ranks) > 2 else float("nan")

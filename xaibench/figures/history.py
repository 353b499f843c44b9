"""Validation accuracy while the students learn, with the teacher's as the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.layout import fitting
from xaibench.figures.style import MUTED, MethodStyle, figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["history_figure"]

_APART = 0.115  # inches between two direct labels


@checked(error=DataError)
def history_figure(
    histories: Mapping[str, pd.DataFrame],
    *,
    teacher_accuracy: float | None = None,
    width: str | float = "single",
) -> Figure:
    """Validation accuracy by epoch: a thin line for each run, a bold mean over the seeds of a method.

    histories         "method" or "method/seedN" -> DataFrame: columns epoch, validation_accuracy (0 to 1)
    teacher_accuracy  its accuracy on the same validation images (0 to 1), drawn as a dashed line
    width             "single", "double" or inches

    The marker on a line is its best epoch: the student that is kept. Lines are labelled at their ends.
    """
    if not histories:
        raise DataError("no training histories: distil at least one student first")
    by_method: dict[str, list[pd.DataFrame]] = {}
    for name, history in histories.items():
        missing = [c for c in ("epoch", "validation_accuracy") if c not in history]
        if missing or history["validation_accuracy"].isna().all():
            raise DataError(f"the history of '{name}' lacks {', '.join(missing) or 'rows'}: it needs one row an epoch")
        by_method.setdefault(name.rpartition("/")[0] or name, []).append(history)
    styles = method_styles(by_method)

    inches = figure_width(width)
    height = min(0.62 * inches, 2.6) + 0.12
    longest = max(len(name) for name in (*by_method, "teacher"))
    left, right, bottom, top = 0.42, min(0.12 + 0.06 * longest, 0.4 * inches), 0.48, 0.08
    with paper_style():
        figure = new_figure(inches, height)
        axes = figure.add_axes(
            (
                left / inches,
                bottom / height,
                (inches - left - right) / inches,
                (height - bottom - top) / height,
            )
        )
        ends: list[tuple[float, str, str]] = []
        for name, runs in by_method.items():
            ends.append((_draw(axes, runs, styles[name]), name, styles[name].colour))
        if teacher_accuracy is not None:
            axes.axhline(teacher_accuracy, color=MUTED, linewidth=0.8, dashes=(4, 2), zorder=1)
            ends.append((teacher_accuracy, "teacher", MUTED))
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        note = "marker: the best epoch, whose student is kept"
        if any(len(runs) > 1 for runs in by_method.values()):
            note += "; bold: mean over seeds"
        figure.text(0.5, 0.04 / height, note, ha="center", fontsize=fitting(note, 6.5, inches - 0.1), color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.margins(x=0.01, y=0.06)
        low, high = axes.get_ylim()
        span = (high - low) * _APART / (height - bottom - top)
        for y, (_, name, colour) in zip(_spread([e[0] for e in ends], span), ends):
            axes.annotate(
                name,
                (1, y),
                (4, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=6.5,
            )
    return figure


def _draw(axes: Axes, runs: list[pd.DataFrame], style: MethodStyle) -> float:
    curves = pd.concat([run.set_index("epoch")["validation_accuracy"] for run in runs], axis=1).sort_index()
    epochs, single = curves.index.to_numpy(), len(runs) == 1
    for values in curves.to_numpy(dtype=float).T:
        axes.plot(epochs, values, color=style.colour, linewidth=1.2 if single else 0.5, alpha=1 if single else 0.5)
        best = np.nanargmax(values)
        axes.plot(
            epochs[best],
            values[best],
            style.marker,
            color=style.colour,
            markersize=3.2,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
    mean = curves.mean(axis=1).to_numpy()
    if not single:
        axes.plot(epochs, mean, color=style.colour, linewidth=1.4)
    return float(mean[-1])


def _spread(places: list[float], apart: float) -> list[float]:
    """Move label positions so that neighbours are at least `apart`, keeping their order and their centre.

    >>> _spread([1.0, 1.0, 5.0], 0.5)
    [0.75, 1.25, 5.0]
    """
    order = np.argsort(places, kind="stable")
    clusters = [[[float(places[i])], float(places[i])] for i in order]
    merged: list[list[Any]] = []
    for cluster in clusters:
        merged.append(cluster)
        while len(merged) > 1:
            (members_a, centre_a), (members_b, centre_b) = merged[-2:]
            if centre_b - centre_a >= apart * (len(members_a) + len(members_b)) / 2:
                break
            members = members_a + members_b
            merged[-2:] = [[members, sum(members) / len(members)]]
    spread = [c + apart * (i - (len(m) - 1) / 2) for m, c in merged for i in range(len(m))]
    result = np.empty(len(places))
    result[order] = spread
    return [float(v) for v in result]

"""Validation accuracy while the students learn, with the teacher's as the goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import add_legend, add_note, axes_at, legend_height, note_height
from xaibench.figures.names import label, method_label
from xaibench.figures.style import MUTED, MethodStyle, figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["history_figure"]

_APART, _HIGHEST = 0.115, 2.1  # inches between two direct labels, of the axes
_SIZE = 6.5  # points of a label
_GOAL: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (4, 2)}


@checked(error=DataError)
def history_figure(
    histories: Mapping[str, pd.DataFrame],
    *,
    teacher_accuracy: float | None = None,
    names: Mapping[str, str] | None = None,
    width: str | float = "single",
) -> Figure:
    """Validation accuracy by epoch: a thin line for each run, a bold mean over the seeds of a method.

    histories         "method" or "method/seedN" -> DataFrame: columns epoch, validation_accuracy (0 to 1)
    teacher_accuracy  its accuracy on the same validation images (0 to 1), drawn as a dashed line
    names             method or "teacher" -> what to write in place of its label
    width             "single", "double" or inches

    The marker on a line is its best epoch: the student that is kept. Lines are labelled at their ends, in a legend
    where there is no room.
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

    note = "marker: the best epoch, whose student is kept"
    if any(len(runs) > 1 for runs in by_method.values()):
        note += "; bold: mean over seeds"
    inches = figure_width(width)
    with paper_style():
        labels = {name: method_label(name, names) for name in by_method}
        labels["teacher"] = label("teacher", names)
        widest = max(text_width(text, _SIZE) for text in labels.values())
        direct = widest <= 0.3 * inches and len(labels) * _APART <= _HIGHEST
        entries = {} if direct else _entries(styles, labels, teacher_accuracy is not None)
        top = 0.08 + legend_height(list(entries), inches)
        left, right = 0.52, 0.1 + widest if direct else 0.1
        bottom = 0.32 + note_height(note, inches)
        tall = max(min(0.5 * inches, _HIGHEST), _APART * len(labels) if direct else 0)
        height = top + tall + bottom
        figure = new_figure(inches, height)
        axes = axes_at(figure, left, top, inches - left - right, tall)
        ends: list[tuple[float, str, str]] = []
        for name, runs in by_method.items():
            ends.append((_draw(axes, runs, styles[name]), labels[name], styles[name].colour))
        if teacher_accuracy is not None:
            axes.axhline(teacher_accuracy, zorder=1, **_GOAL)
            ends.append((teacher_accuracy, labels["teacher"], MUTED))
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        add_note(figure, note)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.margins(x=0.01, y=0.06)
        low, high = axes.get_ylim()
        span = (high - low) * _APART / tall
        places = _spread([end[0] for end in ends], span, (low, high))
        for y, (_, name, colour) in zip(places, ends) if direct else ():
            axes.annotate(
                name,
                (1, y),
                (4, 0),
                xycoords=axes.get_yaxis_transform(),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=_SIZE,
            )
        if entries:
            add_legend(figure, entries)
    return figure


def _entries(styles: Mapping[str, MethodStyle], labels: Mapping[str, str], teacher: bool) -> dict[str, Line2D]:
    entries = {
        labels[name]: Line2D([], [], color=style.colour, marker=style.marker, markersize=3.2, mew=0)
        for name, style in styles.items()
    }
    return entries | ({labels["teacher"]: Line2D([], [], **_GOAL)} if teacher else {})


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


def _spread(places: list[float], apart: float, within: tuple[float, float]) -> list[float]:
    """Move label positions so that neighbours are at least `apart`, keeping their order and their centre, into a range.

    >>> _spread([1.0, 1.0, 5.0], 0.5, (0.0, 9.0)), _spread([1.0, 1.0], 0.5, (1.0, 9.0))
    ([0.75, 1.25, 5.0], [1.0, 1.5])
    """
    order = np.argsort(places, kind="stable")
    merged: list[list[float]] = []  # [number of labels, centre]
    for i in order:
        merged.append([1, min(max(places[i], within[0]), within[1])])
        while len(merged) > 1:
            (count_a, centre_a), (count_b, centre_b) = merged[-2:]
            if centre_b - centre_a >= apart * (count_a + count_b) / 2 - 1e-12:
                break
            count = count_a + count_b
            centre = (count_a * centre_a + count_b * centre_b) / count
            half = apart * (count - 1) / 2
            merged[-2:] = [[count, max(min(centre, within[1] - half), within[0] + half)]]
    spread = [centre + apart * (i - (count - 1) / 2) for count, centre in merged for i in range(int(count))]
    result = np.empty(len(places))
    result[order] = spread
    return [float(value) for value in result]

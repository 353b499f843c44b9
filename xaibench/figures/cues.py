"""Reliance on a spurious mark against its share in the training data: a panel a quantity, a line a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xaibench.errors import DataError, unknown_name
from xaibench.figures.layout import add_legend, add_note, axes_at, fitting, legend_height, note_height, wrapped
from xaibench.figures.names import explainer_label, label, method_label
from xaibench.figures.style import (
    MUTED,
    MethodStyle,
    figure_width,
    interval_note,
    method_styles,
    new_figure,
    paper_style,
)
from xaibench.validation import checked

__all__ = ["QUANTITIES", "cues_figure"]

QUANTITIES = {
    "mass": "positive relevance on the mark",
    "absolute_mass": "|relevance| on the mark",
    "net_mass": "net relevance on the mark",
    "pointing": "strongest pixel on the mark",
    "topk": "top pixels on the mark",
    "auc": "ROC AUC of the mark",
    "attack_success": "attack success",
    "marked_accuracy": "accuracy, all images marked",
    "accuracy": "accuracy, no image marked",
    "wrong_accuracy": "accuracy, marked as another class",
}
"""What a cue study measures -> how its panel is headed."""

_XLABEL = "share of training images of the marked class or classes that carry the mark"
_SHOWN = ("mass", "net_mass", "attack_success", "wrong_accuracy", "marked_accuracy", "accuracy")
_NEEDED = ("contamination", "method", "explainer", "quantity", "mean", "low", "high", "chance")
_TEACHER: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "dashes": (4, 2)}
_CHANCE: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_ACROSS, _HIGH, _TOP, _BOTTOM, _LEFT, _RIGHT, _LINE, _TITLE = (
    4,
    1.15,
    0.2,
    0.2,
    0.44,
    0.12,
    0.15,
    0.11,
)  # inches, but the first


@checked(error=DataError)
def cues_figure(
    table: pd.DataFrame,
    *,
    quantities: Iterable[str] = _SHOWN,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Draw the table of a cue study: contamination across, each quantity's mean with its 95% interval upwards.

    table       columns contamination, method, explainer, quantity, mean, low, high, chance: one row each; the rows of
                method "teacher" have no contamination (NaN) and are drawn as a dashed line with its interval as a band
    quantities  names in QUANTITIES, a panel each; of explanations a panel for each explainer. Those that the table does
                not have are left out
    names       method or explainer -> what to write in place of its label
    width       "single", "double" or inches

    A note says for whom the students' intervals speak, where the table has a column seeds. Dotted is what the quantity
    would be by chance or without the mark (the column chance); in a student's own colour where it differs between them.
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise DataError(f"the table lacks the columns {', '.join(missing)}: pass the table of a cue study")
    for name in quantities:
        if name not in QUANTITIES:
            raise unknown_name("quantity", name, QUANTITIES)
    students = table[table["method"] != "teacher"]
    if students.empty:
        raise DataError("the table has no method besides the teacher: distil at least one student first")
    present = {(str(q), str(e)): part for (q, e), part in table.groupby(["quantity", "explainer"], sort=False)}
    panels = [key for name in quantities for key in present if key[0] == name]
    if not panels:
        raise DataError(f"the table holds none of {', '.join(quantities)}: pass the table of a cue study")
    styles = method_styles(students["method"])
    note = f"bars: {interval_note(students, several=True)}"

    inches = figure_width(width)
    across = min(_ACROSS, len(panels), max(1, int(inches / 1.6)))
    down = -(-len(panels) // across)
    with paper_style():
        entries: dict[str, Any] = {
            method_label(name, names): Line2D([], [], color=s.colour, marker=s.marker, markersize=3.6, mew=0)
            for name, s in styles.items()
        }
        entries[label("teacher", names)] = Line2D([], [], **_TEACHER)
        entries["chance, no mark"] = Line2D([], [], color=MUTED, **_CHANCE)
        legend = legend_height(list(entries), inches)
        cell = inches / across
        titles = [wrapped(_title(*key, names), 6, cell - 0.1) for key in panels]
        title_size = min(fitting(title, 7.5, cell - 0.1) for title in titles)
        top = _TOP + _TITLE * max(title.count("\n") for title in titles)
        pitch = top + _HIGH + _BOTTOM
        height = legend + down * pitch + _LINE + note_height(note, inches)
        figure = new_figure(inches, height)
        for place, key in enumerate(panels):
            row, column = divmod(place, across)
            room = cell - _LEFT - _RIGHT
            axes = axes_at(figure, column * cell + _LEFT, legend + row * pitch + top, room, _HIGH)
            _draw(axes, present[key], styles, room)
            middle = 0.5 - (_LEFT - _RIGHT) / room / 2
            axes.set_title(titles[place], pad=4, fontsize=title_size, x=middle, linespacing=1.0)
        size = fitting(_XLABEL, 6.5, inches - 0.1)
        below = (0.04 + note_height(note, inches)) / height
        figure.text(0.5, below, _XLABEL, ha="center", va="bottom", fontsize=size)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, styles: dict[str, MethodStyle], inches: float) -> None:
    teacher, students = rows[rows["method"] == "teacher"], rows[rows["method"] != "teacher"]
    levels = students["contamination"].to_numpy(dtype=float)
    apart = 0.012 * (max(levels, default=1) - min(levels, default=0) or 1)
    for row in teacher.to_dict("records"):
        axes.axhspan(row["low"], row["high"], color=MUTED, alpha=0.15, linewidth=0)
        axes.axhline(row["mean"], **_TEACHER)
    shared = students["chance"].dropna().round(9).unique()
    if len(shared) == 1:
        axes.axhline(shared[0], color=MUTED, **_CHANCE)
    for place, (name, style) in enumerate(styles.items()):
        line = students[students["method"] == name].sort_values("contamination")
        x = line["contamination"].to_numpy(dtype=float) + apart * (place - (len(styles) - 1) / 2)
        mean, low, high = (line[column].to_numpy(dtype=float) for column in ("mean", "low", "high"))
        axes.vlines(x, low, high, color=style.colour, linewidth=0.9)
        axes.plot(x, mean, marker=style.marker, color=style.colour, markersize=3.6, mew=0, linewidth=1.0)
        if len(shared) > 1:
            axes.plot(x, line["chance"].to_numpy(dtype=float), color=style.colour, **_CHANCE)
    ticks = sorted(set(levels))
    every = -(-len(ticks) // max(2, int(inches / 0.28)))
    axes.set_xticks(ticks, [_percent(tick) if place % every == 0 else "" for place, tick in enumerate(ticks)])
    axes.yaxis.set_major_formatter(_percent)
    axes.yaxis.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.locator_params(axis="y", nbins=5)
    axes.margins(x=0.06, y=0.08)


def _percent(value: float, _position: float = 0) -> str:
    return f"{100 * value:.4g}%".replace("-", "\N{MINUS SIGN}")


def _title(quantity: str, explainer: str, names: Mapping[str, str] | None) -> str:
    what = QUANTITIES[quantity]
    return what if explainer == "-" else f"{explainer_label(explainer, names)}: {what}"

"""A training as pictures: losses, validation accuracy, and how alike LRP's maps are, by epoch."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from xaibench.figures.names import layer_label, method_label
from xaibench.figures.style import INK, MUTED, new_figure, paper_style
from xaibench.widgets.pictures import figure_html

__all__ = ["CURVES", "clock", "curves_html"]

CURVES = """
.xaibench .xb-curves { display: flex; flex-wrap: wrap; gap: 0.6em 0.8em; margin: 0.5em 0; }
.xaibench .xb-curves img { min-width: 0; }
"""
"""Rules of CSS for pictures side by side, on as many lines as they need."""

Rows = Sequence[Mapping[str, float]]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D46", "#6b6b6b")
_DASHES = ("-", "--", ":", "-.")
_NO_TERMS = ("epoch", "lr", "loss", "seconds")


def curves_html(history: pd.DataFrame, teacher: float | None, problem: str = "") -> str:
    """All curves of a history with at least one row.

    teacher  its accuracy on the validation images, drawn as a goal; None: not known
    problem  why LRP was not compared; "" for none
    """
    rows: Any = history.to_dict("records")
    note = f'<div class="xb-note">LRP was not compared: {html.escape(problem)}</div>' if problem else ""
    return f'<div class="xb-curves">{_losses(rows)}{_accuracies(rows, teacher)}{_likeness(rows)}</div>{note}'


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds.

    >>> clock(75), clock(3600)
    ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _terms(rows: Rows) -> list[str]:
    return [name for name in rows[-1] if name not in _NO_TERMS and not name.startswith(("validation_", "lrp_"))]


def _term(name: str) -> str:
    """A term of the loss for readers: the labels' cross-entropy, a method's, or that of a layer pair."""
    return "cross-entropy" if name == "ce" else method_label(layer_label(name))


def _losses(rows: Rows) -> str:
    """The total loss and its terms, before they are weighted, as an <img>."""
    names = {"loss": "total", **{name: _term(name) for name in _terms(rows)}}
    curves = {label: _curve(rows, name) for name, label in names.items()}
    with paper_style():
        figure, axes = _axes("loss (terms unweighted)")
        if all((y > 0).all() for _, y in curves.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _draw(axes, curves)
    return figure_html(figure, _alt("Training loss", rows, curves), dpi=125)


def _accuracies(rows: Rows, teacher: float | None) -> str:
    """Validation accuracy, with its best epoch marked and the teacher's as a goal, and agreement with the teacher."""
    curves = {"accuracy": _curve(rows, "validation_accuracy")}
    if "validation_agreement" in rows[-1]:
        curves["agreement with the teacher"] = _curve(rows, "validation_agreement")
    best = int(np.argmax(curves["accuracy"][1]))
    note = f"best accuracy {curves['accuracy'][1][best]:.3f} in epoch {best + 1}"
    with paper_style():
        figure, axes = _axes("share of the validation images")
        _draw(axes, curves)
        x, y = curves["accuracy"]
        axes.plot(x[best], y[best], "o", color=_COLOURS[0], markersize=5, markerfacecolor="white")
        if teacher is not None:
            axes.axhline(teacher, color=MUTED, linewidth=0.8, dashes=(4, 2), label="teacher's accuracy")
            note += f"; the teacher's {teacher:.3f}"
        _legend(axes)
    return figure_html(figure, f"{_alt('Validation', rows, curves)}; {note}", dpi=125)


def _likeness(rows: Rows) -> str:
    """The cosine of LRP's maps with the teacher's and its interval, beside chance; "" before it was measured."""
    rows = [row for row in rows if math.isfinite(row.get("lrp_cosine", math.nan))]
    if not rows:
        return ""
    names = {"with the teacher": "lrp_cosine", "chance (other images)": "lrp_chance"}
    curves = {label: _curve(rows, name) for label, name in names.items()}
    x = curves["with the teacher"][0]
    with paper_style():
        figure, axes = _axes("cosine of LRP's maps")
        low, high = (_curve(rows, f"lrp_cosine_{end}")[1] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=_COLOURS[0], alpha=0.15, linewidth=0)
        _draw(axes, curves)
    return figure_html(figure, _alt("Likeness of LRP's maps", rows, curves), dpi=125)


def _curve(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row["epoch"] + 1 for row in rows]), np.array([row[name] for row in rows], dtype=float)


def _axes(ylabel: str) -> tuple[Figure, Axes]:
    figure = new_figure(3.1, 2.6)
    axes = figure.add_axes((0.17, 0.3, 0.8, 0.66), xlabel="epochs", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _draw(axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for place, (label, (x, y)) in enumerate(curves.items()):
        colour = INK if label == "total" else _COLOURS[place % len(_COLOURS)]
        dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
        axes.plot(x, y, dash, color=colour, label=label, marker="o" if len(x) < 20 else None, markersize=2)
    _legend(axes)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(3, len(labels)) if max(map(len, labels)) < 18 else 2
    size = 6.5 if len(labels) <= 3 * columns else 5
    axes.legend(
        handles,
        [label if len(label) < 34 else f"{label[:32]}…" for label in labels],
        loc="upper center",
        bbox_to_anchor=(0.45, -0.17),
        ncols=columns,
        fontsize=size,
        columnspacing=1.2,
        handlelength=1.6,
    )


def _alt(what: str, rows: Rows, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    values = ", ".join(f"{label} {y[-1]:.3g}" for label, (_, y) in curves.items())
    return f"{what} by epoch; after epoch {int(rows[-1]['epoch']) + 1}: {values}"

"""Flip curves side by side: what each model answers while patches vanish in its own, its teacher's, a random order."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import fitting
from xaibench.figures.style import MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["flip_figure"]

_NEEDED = ("model", "order", "measure", "fraction", "mean", "low", "high")
_LEFT, _RIGHT, _TOP, _BOTTOM, _ACROSS, _DOWN, _UNEVEN = 0.66, 0.12, 0.46, 0.5, 0.14, 0.16, 0.28  # inches
_MOST = 8  # panels that can be read side by side


@dataclass(frozen=True)
class _Order:
    label: str
    colour: str
    dashes: tuple[float, ...] | None


_ORDERS = {
    "own": _Order("own order", "#0072B2", None),
    "teacher": _Order("teacher's order", "#D55E00", (4, 1.5)),
    "random": _Order("random order", MUTED, (1.2, 1.2)),
}
_MEASURES = {
    "difference": "logit difference",
    "probability": "probability",
    "unchanged": "prediction\nunchanged",
    "with teacher": "agreement\nwith teacher",
}
_SHARES = ("unchanged", "with teacher")


@checked(error=DataError)
def flip_figure(
    curves: pd.DataFrame, *, measures: tuple[str, ...] | None = None, width: str | float = "double"
) -> Figure:
    """Draw flip curves with their 95% bands: a column a model, a row a measure, a line an order.

    curves    columns model, order, measure, fraction, mean, low, high, and n for the note below, as
              `cross_flip.curve_table` makes them
    measures  rows to draw, by name; None: all there are. A logit difference has one axis for all models and a line at
              0; shares run from 0 to 100%
    width     "single", "double" or inches

    Models, and measures where None, stand in the order of their first row; at most 8 models. Where every value of a
    curve is undefined (NaN), its panel lacks that line.
    """
    missing = [name for name in _NEEDED if name not in curves]
    if missing:
        raise DataError(f"the curves lack the columns {', '.join(missing)}: pass those of curve_table")
    if curves.empty:
        raise DataError("there are no curves to draw: flip the images of at least one model first")
    rows = list(dict.fromkeys(curves["measure"])) if measures is None else list(measures)
    absent = [name for name in rows if name not in set(curves["measure"])]
    if absent or not rows:
        raise DataError(f"the curves hold {', '.join(curves['measure'].unique())}, not '{''.join(absent[:1])}'")
    has = {str(model): set(part["measure"]) & set(rows) for model, part in curves.groupby("model", sort=False)}
    models = {model: [row for row in rows if row in mine] for model, mine in has.items() if mine}
    if len(models) > _MOST:
        raise DataError(f"{len(models)} models do not fit side by side: choose up to {_MOST}")
    inches = figure_width(width)
    panel = (inches - _LEFT - _RIGHT - _ACROSS * (len(models) - 1)) / len(models)
    tall = min(max(0.85 * panel, 0.75), 1.7)
    apart = _DOWN if all(mine == rows for mine in models.values()) else _UNEVEN
    height = _TOP + tall * len(rows) + apart * (len(rows) - 1) + _BOTTOM
    with paper_style():
        figure = new_figure(inches, height)
        for down, measure in enumerate(rows):
            shown = curves[curves["measure"] == measure]
            limits = _limits(shown, measure)
            for across, (model, mine) in enumerate(models.items()):
                if measure not in mine:
                    continue
                x, top = _LEFT + across * (panel + _ACROSS), _TOP + down * (tall + apart)
                axes = figure.add_axes(
                    (x / inches, 1 - (top + tall) / height, panel / inches, tall / height), xlim=(0, 1), ylim=limits
                )
                _draw(axes, shown[shown["model"] == model], measure, panel)
                first = model == shown["model"].iloc[0]
                axes.tick_params(labelleft=first, labelbottom=measure == mine[-1])
                if first:
                    axes.set_ylabel(_MEASURES.get(measure, measure), labelpad=2, linespacing=1.15)
                if measure == mine[0]:
                    axes.set_title(model, pad=4, fontsize=fitting(model, 8, panel))
        middle = (_LEFT + inches - _RIGHT) / 2 / inches
        figure.supxlabel("share of patches removed", x=middle, y=0.17 / height, fontsize=7)
        note = _note(curves)
        figure.text(middle, 0.04 / height, note, ha="center", fontsize=fitting(note, 6.5, inches - 0.7), color=MUTED)
        orders = [name for name in _ORDERS if name in set(curves["order"])]
        lines = [_line(_ORDERS[name]) for name in orders]
        labels = [_ORDERS[name].label for name in orders]
        figure.legend(
            lines,
            labels,
            loc="upper center",
            ncols=len(lines),
            handlelength=2.4,
            handletextpad=0.5,
            columnspacing=1.3,
            borderpad=0,
            borderaxespad=0.6,
        )
    return figure


def _draw(axes: Axes, curves: pd.DataFrame, measure: str, panel: float) -> None:
    for name, style in _ORDERS.items():
        one = curves[curves["order"] == name]
        if one["mean"].notna().any():
            axes.fill_between(one["fraction"], one["low"], one["high"], color=style.colour, alpha=0.15, linewidth=0)
            line = _line(style)
            line.set_data(one["fraction"], one["mean"])
            axes.add_line(line)
    if measure in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif measure == "difference":
        axes.axhline(0, color=MUTED, linewidth=0.5)
    axes.set_xticks([0, 0.5, 1], ["0", "50%" if panel > 0.9 else "", "100%"], fontsize=6.5 if panel > 0.8 else 5.5)
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.locator_params(axis="y", nbins=4)
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)


def _note(curves: pd.DataFrame) -> str:
    note = "shaded: 95% interval of the mean"
    if "n" not in curves:
        return note
    counts = curves.groupby(curves["model"] == "teacher")["n"].max().to_dict()
    over = {True: "{} images for the teacher", False: "{} images × seeds for the students"}
    return f"{note} over {' and '.join(over[key].format(counts[key]) for key in (True, False) if key in counts)}"


def _line(style: _Order) -> Line2D:
    line = Line2D([], [], color=style.colour, linewidth=1.2)
    if style.dashes:
        line.set_dashes(style.dashes)
    return line


def _limits(curves: pd.DataFrame, measure: str) -> tuple[float, float]:
    if measure in (*_SHARES, "probability"):
        return 0.0, 1.04
    ends = curves[["mean", "low", "high"]].min().min(), curves[["mean", "low", "high"]].max().max()
    low, high = min(0.0, ends[0]), max(0.0, ends[1])
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room

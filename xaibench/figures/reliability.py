"""How often models are right at each confidence: reliability curves with the diagonal of calibrated models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, axes_at, legend_height, note_height
from xaibench.figures.names import label, method_label
from xaibench.figures.style import INK, MUTED, MethodStyle, figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["reliability_figure"]

_LEFT, _RIGHT, _BETWEEN, _BELOW, _HIGH, _COUNTS = 0.5, 0.1, 0.08, 0.36, 1.9, 0.45  # inches
_NEEDED = ("low", "high", "confidence", "accuracy", "count")
_CALIBRATED: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (4, 2)}
_FEW = 0.01
_NOTE = "a line a model, means within bins of confidence; pale, off the line: bins with less than 1% of the images; "
_NOTE += "dashed: calibrated; below: share of images in each bin"


@checked(error=DataError)
def reliability_figure(
    curves: Mapping[str, pd.DataFrame], *, names: Mapping[str, str] | None = None, width: str | float = "single"
) -> Figure:
    """Accuracy against confidence, and below it how the images are spread over confidences.

    curves  "teacher", "method" or "method/seedN" -> `reliability` of that model
    names   method or "teacher" -> what to write in place of its label
    width   "single", "double" or inches

    Seeds of a method share their colour; the teacher is drawn in black. Empty bins are left out, those with less than
    1% of the images are points off the line. Below the dashed diagonal a model is surer than it should be.
    """
    if not curves:
        raise DataError("there are no curves to draw: compute at least one with reliability")
    for name, curve in curves.items():
        missing = [column for column in _NEEDED if column not in curve]
        if missing or not curve["count"].sum() > 0:
            raise DataError(
                f"the curve of '{name}' lacks {', '.join(missing) or 'images'}: pass what reliability returns"
            )
    method_of = {name: name.rpartition("/seed")[0] or name for name in curves}
    styles = method_styles(method for method in method_of.values() if method != "teacher")
    if "teacher" in method_of.values():
        styles = {"teacher": MethodStyle(INK, "*"), **styles}
    inches = figure_width(width)
    with paper_style():
        entries = {
            label(name, names) if name == "teacher" else method_label(name, names): Line2D(
                [], [], color=style.colour, marker=style.marker, markersize=3.6, mew=0
            )
            for name, style in styles.items()
        }
        top, bottom = 0.08 + legend_height(list(entries), inches), _BELOW + note_height(_NOTE, inches)
        room = inches - _LEFT - _RIGHT
        figure = new_figure(inches, top + _HIGH + _BETWEEN + _COUNTS + bottom)
        upper = axes_at(figure, _LEFT, top, room, _HIGH, xlim=(0, 1.02), ylim=(-0.02, 1.02))
        lower = axes_at(figure, _LEFT, top + _HIGH + _BETWEEN, room, _COUNTS, xlim=(0, 1.02))
        upper.plot([0, 1], [0, 1], zorder=1, **_CALIBRATED)
        for name, curve in curves.items():
            _draw(upper, lower, curve, styles[method_of[name]])
        upper.tick_params(labelbottom=False)
        upper.set_ylabel("accuracy", labelpad=2)
        lower.set_ylabel("images", labelpad=2)
        lower.set_xlabel("confidence", labelpad=2)
        lower.set_ylim(bottom=0)
        lower.yaxis.set_major_locator(MaxNLocator(2))
        for axes in (upper, lower):
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
        upper.set_yticks(np.linspace(0.2, 1, 5))
        add_note(figure, _NOTE)
        add_legend(figure, entries)
    return figure


def _draw(upper: Axes, lower: Axes, curve: pd.DataFrame, style: MethodStyle) -> None:
    share = curve["count"] / curve["count"].sum()
    filled, few = curve[share >= _FEW], curve[(share > 0) & (share < _FEW)]
    look: dict[str, Any] = {"color": style.colour, "linewidth": 0.9, "markersize": 3.0, "mew": 0, "alpha": 0.8}
    upper.plot(filled["confidence"], filled["accuracy"], style.marker + "-", **look)
    upper.plot(few["confidence"], few["accuracy"], style.marker, **{**look, "markersize": 2.2, "alpha": 0.25})
    lower.stairs(
        share,
        [*curve["low"], float(curve["high"].iloc[-1])],
        color=style.colour,
        linewidth=0.9,
        alpha=0.8,
    )

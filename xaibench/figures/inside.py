"""Inside the models: the relevance that the subspace carries, and how alike the students are to it, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xaibench.errors import DataError
from xaibench.figures.layout import fitting
from xaibench.figures.style import INK, MUTED, figure_width, method_styles, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["inside_figure"]

_NEEDED = ("layer", "method", "measure", "pairing", "k", "value", "low", "high")
_SHARE = "relevance share"
_CONTROLS = {"random rotation": "v", "mismatched images": "d"}
_BASES: dict[str, dict[str, Any]] = {
    "matched": {"color": INK, "linewidth": 1.4},
    "pca subspace": {"color": "#0072B2", "linewidth": 1.0, "dashes": (4, 1.5)},
    "random subspace": {"color": MUTED, "linewidth": 0.8, "dashes": (1, 1.5)},
}
_STEP, _PAD, _CURVE = 0.095, 0.12, 1.0  # inches: between methods, between layers, a curve's panel
_RIGHT, _BETWEEN, _TITLE, _LABEL, _NOTE, _LETTER = 0.06, 0.11, 0.22, 0.33, 0.12, 0.062


@checked(error=DataError)
def inside_figure(table: pd.DataFrame, *, width: str | float = "double") -> Figure:
    """Two rows of panels: the teacher's relevance against the subspace's dimension; the students' likeness.

    table  columns layer, method, measure, pairing, k, value, low, high, and n for the note below, as
           `questions.inside.inside_run` makes it
    width  "single", "double" or inches

    Above, a panel a layer: the share of the teacher's relevance in the first k directions of its subspace, of PCA and
    of a random subspace, with its 95% interval; the vertical line is the student's width. Below, a panel a measure:
    a group a layer, a row a method; filled markers with 95% intervals where there are any, hollow ones for controls.
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing or table.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass what inside_run returned")
    curves = table[table["measure"] == _SHARE]
    dots = table[(table["method"] != "teacher") & (table["measure"] != "direction cosine")]
    layers = list(dict.fromkeys(table["layer"]))
    measures, methods = (list(dict.fromkeys(dots[name])) for name in ("measure", "method"))
    styles = method_styles(methods)
    inches = figure_width(width)
    names = [_layer_name(layer) for layer in layers]
    titles = [name.replace("\n", "") for name in names]
    left = max(0.5, 0.12 + _LETTER * max(len(line) for name in names for line in name.split("\n")))
    group = _STEP * len(methods) + _PAD
    across = max(1, int(inches / 1.25))
    legend = 0.06 + 0.15 * -(-(len(methods) + len(_CONTROLS) + len(_BASES)) // across)
    block = group * len(layers)
    height = legend + _TITLE + _CURVE + _LABEL + (_TITLE + block + _LABEL if measures else 0) + _NOTE
    with paper_style():
        figure = new_figure(inches, height)

        def room(count: int) -> float:
            return (inches - left - _RIGHT - _BETWEEN * (count - 1)) / count

        size = min(fitting(title, 7.5, room(len(row))) for row in (titles, measures) for title in row)

        def row(count: int, top: float, high: float) -> list[Axes]:
            wide = room(count)
            return [
                figure.add_axes(
                    ((left + i * (wide + _BETWEEN)) / inches, 1 - (top + high) / height, wide / inches, high / height)
                )
                for i in range(count)
            ]

        top = legend + _TITLE
        for place, (axes, layer) in enumerate(zip(row(len(layers), top, _CURVE), layers)):
            _draw_curves(axes, curves[curves["layer"] == layer], dots[dots["layer"] == layer]["k"])
            axes.set_title(titles[place], pad=4, fontsize=size)
            axes.tick_params(axis="y", labelleft=place == 0)
            if place == 0:
                axes.set_ylabel("share of relevance", labelpad=2)
        top += _CURVE + _LABEL + _TITLE
        for place, (axes, measure) in enumerate(zip(row(len(measures), top, block), measures) if measures else ()):
            chosen = dots[dots["measure"] == measure]
            axes.set_title(measure, pad=4, fontsize=size)
            axes.set_ylim(block, 0)
            axes.set_yticks([group * (i + 0.5) for i in range(len(layers))], names)
            axes.tick_params(axis="y", length=0, labelleft=place == 0)
            axes.spines["left"].set_visible(False)
            axes.xaxis.grid(color="#e4e4e4", linewidth=0.5)
            axes.set_axisbelow(True)
            for number, layer in enumerate(layers):
                if number:
                    axes.axhline(number * group, color="#cfcfcf", linewidth=0.5)
                _draw_dots(axes, chosen[chosen["layer"] == layer], methods, styles, number * group)
            axes.set_xlim(min(axes.get_xlim()[0], -0.05), 1.03)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        note = "bands and bars: 95% intervals" + (f", {curves['n'].max()} images" if "n" in curves else "")
        note += "; vertical line: the student's width" if measures else ""
        figure.text(0.5, 0.03 / height, note, ha="center", fontsize=fitting(note, 6.5, inches - 0.1), color=MUTED)
        entries = {
            **{
                name: Line2D([], [], color=s.colour, marker=s.marker, markersize=4, mew=0, linewidth=1.2)
                for name, s in styles.items()
            },
            **{
                name: Line2D([], [], linestyle="", marker=marker, markersize=3, mfc="white", mec=INK, mew=0.7)
                for name, marker in _CONTROLS.items()
            },
            **{_curve_name(name): Line2D([], [], **look) for name, look in _BASES.items()},
        }
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="upper center",
            ncols=min(len(entries), across),
            handletextpad=0.5,
            columnspacing=1.2,
            borderpad=0,
            borderaxespad=0.3,
        )
    return figure


def _layer_name(pair: str) -> str:
    teacher, _, student = pair.partition(":")
    return teacher if teacher == student else f"{teacher}:\n{student}"


def _curve_name(pairing: str) -> str:
    return "the teacher's subspace" if pairing == "matched" else pairing.replace("pca", "PCA")


def _draw_curves(axes: Axes, rows: pd.DataFrame, widths: pd.Series) -> None:
    axes.set_xscale("log")
    for pairing, look in _BASES.items():
        line = rows[rows["pairing"] == pairing].sort_values("k")
        axes.plot(line["k"], line["value"], **look)
        if pairing == "matched" and line["low"].notna().any():
            axes.fill_between(line["k"], line["low"], line["high"], color=INK, alpha=0.15, linewidth=0)
    axes.axhline(1, color="#cfcfcf", linewidth=0.5)
    if len(widths):
        axes.axvline(float(widths.iloc[0]), color=MUTED, linewidth=0.6)
    axes.set_ylim(min(0.0, rows["value"].min()) - 0.03, max(1.12, rows["value"].max() + 0.05))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("directions", labelpad=1)


def _draw_dots(axes: Axes, rows: pd.DataFrame, methods: list[str], styles: dict[str, Any], top: float) -> None:
    for record in rows.to_dict("records"):
        style = styles[record["method"]]
        y = top + _PAD / 2 + _STEP * (methods.index(record["method"]) + 0.5)
        if record["pairing"] in _CONTROLS:
            look = {"markersize": 2.8, "markerfacecolor": "white", "markeredgecolor": style.colour, "mew": 0.6}
            axes.plot(record["value"], y, _CONTROLS[record["pairing"]], **look)
        elif np.isfinite(record["value"]):
            axes.plot([record["low"], record["high"]], [y, y], color=style.colour, linewidth=1.3, solid_capstyle="butt")
            axes.plot(record["value"], y, style.marker, color=style.colour, markersize=4, mew=0)

"""How a student's features come to lie in directions of the teacher: a row a method, a column a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.bases import basis_label, basis_styles
from xaibench.figures.layout import add_legend, add_note, axes_at, fitting, legend_height, note_height, wrapped
from xaibench.figures.names import layer_label, method_label
from xaibench.figures.style import MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["convergence_figure"]

_NEEDED = ("layer", "method", "map", "basis", "epoch", "chance", "mean", "low", "high", "seeds")
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_DASHES: dict[str, Any] = {"learned": "-", "fitted": (0, (3, 1.5))}
_HIGH, _LEFT, _RIGHT, _BETWEEN, _APART, _TOP, _LINE, _BOTTOM = 0.85, 0.5, 0.1, 0.16, 0.12, 0.16, 0.11, 0.3  # inches


@checked(error=DataError)
def convergence_figure(
    table: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """Share of the mapped features' energy in a basis against the epoch, with 95% t intervals over seeds as bands.

    table  columns layer, method, map ("learned", "fitted"), basis, epoch, chance, mean, low, high, seeds, as
           `experiments.run_experiment` writes them
    names  method, basis or layer -> what to write in place of its label
    width  "single", "double" or inches
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing or table.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass that of the experiment convergence")
    layers, methods, bases = (
        [str(name) for name in dict.fromkeys(table[column])] for column in ("layer", "method", "basis")
    )
    styles = basis_styles(bases)
    inches = figure_width(width)
    note = "solid: map learned by the method; dashed: map fitted afterwards; "
    note += f"bands: 95% t intervals over {table['seeds'].max()} seeds"
    with paper_style():
        entries: dict[str, Any] = {
            basis_label(basis, names): Line2D([], [], color=style.colour) for basis, style in styles.items()
        }
        entries["chance"] = Line2D([], [], **_CHANCE)
        sides = {method: wrapped(method_label(method, names), 6.5, _HIGH) for method in methods}
        left = _LEFT + _LINE * max(side.count("\n") for side in sides.values())
        panel = (inches - left - _RIGHT + _BETWEEN) / len(layers) - _BETWEEN
        titles = {layer: wrapped(layer_label(layer, names), 6, panel) for layer in layers}
        above = _TOP + _LINE * max(title.count("\n") for title in titles.values())
        legend = legend_height(list(entries), inches)
        body = len(methods) * (_HIGH + _APART) + _BOTTOM
        figure = new_figure(inches, legend + above + body + note_height(note, inches))
        for row, method in enumerate(methods):
            for column, layer in enumerate(layers):
                x, top = left + column * (panel + _BETWEEN), legend + above + row * (_HIGH + _APART)
                axes = axes_at(figure, x, top, panel, _HIGH)
                own = table[(table["layer"] == layer) & (table["method"] == method)]
                for (basis, which), part in own.groupby(["basis", "map"], sort=False):
                    line, colour = part.sort_values("epoch"), styles[str(basis)].colour
                    axes.fill_between(line["epoch"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0)
                    axes.plot(line["epoch"], line["mean"], color=colour, linewidth=1.1, linestyle=_DASHES[str(which)])
                axes.axhline(table[table["layer"] == layer]["chance"].iloc[0], **_CHANCE)
                axes.set_ylim(-0.03, 1.03)
                axes.set_yticks([0, 0.5, 1])
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
                axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                axes.grid(color="#e4e4e4", linewidth=0.5)
                axes.set_axisbelow(True)
                axes.tick_params(labelleft=column == 0, labelbottom=row == len(methods) - 1)
                if row == 0:
                    size = fitting(titles[layer], 7.5, panel + 0.8 * _BETWEEN)
                    axes.set_title(titles[layer], pad=3, fontsize=size, linespacing=1.0)
                if row == len(methods) - 1:
                    axes.set_xlabel("epoch", labelpad=1)
                if column == 0:
                    axes.set_ylabel(sides[method], fontsize=fitting(sides[method], 6.5, _HIGH), linespacing=1.0)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure

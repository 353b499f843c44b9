"""How much of a layer the teacher needs: its accuracy with the layer projected on few directions, a line a basis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.bases import basis_label, basis_styles, dimension_axis
from xaibench.figures.layout import add_legend, add_note, titled_panels
from xaibench.figures.names import layer_label
from xaibench.figures.style import MUTED, figure_width, paper_style
from xaibench.validation import checked

__all__ = ["dimension_figure"]

_NEEDED = ("layer", "basis", "k", "accuracy", "low", "high", "width", "chance")
_PLACES = {"high": 1.15, "left": 0.54, "between": 0.14, "narrow": 0.85}  # inches
_WHOLE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (4, 2)}
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}


@checked(error=DataError)
def dimension_figure(
    table: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """Accuracy with a layer projected on the first k directions of a basis, against k: a panel a layer, a line a basis.

    table  columns layer, basis, k, accuracy, low, high, width, chance, and n for the note below, as
           `questions.dimension` makes it of one run, or of several; the rows of basis "none" hold the teacher as it is
    names  basis or layer -> what to write in place of its label
    width  "single", "double" or inches
    """
    missing = [name for name in _NEEDED if name not in table]
    if missing or table.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass what dimension_run returned")
    layers = [str(layer) for layer in dict.fromkeys(table["layer"])]
    bases = [str(basis) for basis in dict.fromkeys(table["basis"]) if basis != "none"]
    styles = basis_styles(bases)
    inches = figure_width(width)
    unit = table["unit"].iloc[0] if "unit" in table else "images"
    note = "bands: 95% intervals" + (f" over {table['n'].max()} {unit}" if "n" in table else "")
    note += "; vertical line: the student's width"
    low, high = table[["low", "chance"]].min().min(), table["high"].max()
    with paper_style():
        entries: dict[str, Any] = {
            basis_label(basis, names): Line2D([], [], color=s.colour, marker=s.marker, markersize=3, mew=0)
            for basis, s in styles.items()
        }
        entries["all directions"] = Line2D([], [], **_WHOLE)
        entries["chance"] = Line2D([], [], **_CHANCE)
        titles = [layer_label(layer, names) for layer in layers]
        figure, panels = titled_panels(titles, inches, **_PLACES, legend=entries, note=note)
        for layer, (axes, first) in zip(layers, panels):
            own = table[table["layer"] == layer]
            for basis, style in styles.items():
                rows = own[own["basis"] == basis].sort_values("k")
                axes.fill_between(rows["k"], rows["low"], rows["high"], color=style.colour, alpha=0.15, linewidth=0)
                axes.plot(rows["k"], rows["accuracy"], marker=style.marker, color=style.colour, ms=2.6, mew=0, lw=1.1)
            for whole in own[own["basis"] == "none"]["accuracy"]:
                axes.axhline(whole, **_WHOLE)
            axes.axhline(own["chance"].iloc[0], **_CHANCE)
            axes.axvline(own["width"].iloc[0], color=MUTED, linewidth=0.7)
            axes.set_ylim(max(0, low - 0.04), min(1, high) + 0.04)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            dimension_axis(axes, own["k"].max())
            axes.set_xlabel("directions k", labelpad=1)
            if first:
                axes.set_ylabel("accuracy of the teacher", labelpad=2)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure

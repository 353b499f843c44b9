"""Differences between methods with their intervals, and what is significant after correction."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.fonts import text_width
from xaibench.figures.layout import add_note, axes_at, fitting, note_height, panels_across, wrapped
from xaibench.figures.names import explainer_label, label, method_label, metric_label
from xaibench.figures.style import INK, MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["difference_figure"]

_ROW, _TITLE, _TICKS, _RIGHT, _BETWEEN, _NARROW = 0.19, 0.3, 0.26, 0.14, 0.22, 0.9  # inches


@checked(error=DataError)
def difference_figure(
    differences: pd.DataFrame, *, names: Mapping[str, str] | None = None, width: str | float = "double"
) -> Figure:
    """A panel a quantity, a row a pair of methods: the mean of a - b with its 95% interval.

    differences  columns a, b, quantity, difference, low, high, unit, significant: a study's differences
    names        method, explainer or quantity -> what to write in place of its label
    width        "single", "double" or inches

    Filled points are significant at 0.05 after correction (Benjamini-Yekutieli) over the pairs of a panel; where so few
    units cannot reach that, none is.
    """
    needed = ["a", "b", "quantity", "difference", "low", "high", "unit", "significant"]
    missing = [name for name in needed if name not in differences]
    if missing or differences.empty:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass a study's differences")
    shown = list(differences["quantity"].unique())
    pairs = list(dict.fromkeys(zip(differences["a"], differences["b"])))
    inches = figure_width(width)
    units = " and ".join(dict.fromkeys(differences["unit"]))
    note = f"difference with its 95% interval over {units}; filled: significant at 0.05 (Benjamini-Yekutieli)"
    with paper_style():
        most = 0.36 * inches
        labels = [wrapped(f"{method_label(a, names)} − {method_label(b, names)}", 6.5, most) for a, b in pairs]
        size = min(fitting(text, 6.5, most) for text in labels)
        left = 0.1 + max(text_width(text, size) for text in labels)
        room = inches - left - _RIGHT
        across = panels_across(len(shown), room, _BETWEEN, _NARROW)
        panel = (room + _BETWEEN) / across - _BETWEEN
        titles = [wrapped(_title(name, names), 7, panel) for name in shown]
        head = _TITLE + 0.115 * max(title.count("\n") for title in titles)
        row = _ROW * max(1.0, 0.62 * max(text.count("\n") + 1 for text in labels))
        tall = row * len(pairs)
        pitch = head + tall + _TICKS
        figure = new_figure(inches, pitch * -(-len(shown) // across) + note_height(note, inches))
        for place, (name, title) in enumerate(zip(shown, titles)):
            line, column = divmod(place, across)
            axes = axes_at(figure, left + column * (panel + _BETWEEN), line * pitch + head, panel, tall)
            axes.set_title(title, pad=4, fontsize=7, linespacing=1.1)
            axes.set_ylim(len(pairs) - 0.4, -0.6)
            axes.set_yticks(range(len(pairs)), labels, fontsize=size, linespacing=1.0)
            axes.tick_params(axis="y", length=0, labelleft=column == 0)
            axes.tick_params(axis="x", labelsize=6)
            axes.spines["left"].set_visible(False)
            axes.axvline(0, color=MUTED, linewidth=0.8)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10], min_n_ticks=2))
            rows = differences[differences["quantity"] == name].set_index(["a", "b"])
            for y, pair in enumerate(pairs):
                if pair not in rows.index or pd.isna(rows.loc[pair, "difference"]):
                    continue
                one = rows.loc[pair]
                axes.plot([one["low"], one["high"]], [y, y], color=INK, linewidth=0.9, solid_capstyle="butt")
                face = INK if one["significant"] else "white"
                axes.plot(one["difference"], y, "o", markersize=3.6, markerfacecolor=face, markeredgecolor=INK, mew=0.8)
        add_note(figure, note)
    return figure


def _title(quantity: str, names: Mapping[str, str] | None) -> str:
    explainer, _, metric = quantity.rpartition(" ")
    if not explainer:
        return label(quantity, names)
    return f"{explainer_label(explainer, names)}, {metric if metric == 'lift' else metric_label(metric)}"

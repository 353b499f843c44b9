"""The XOR toy: how far few directions of the teacher carry one subtask, the others, and a student."""

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
from xaibench.figures.names import label, method_label
from xaibench.figures.style import MUTED, MethodStyle, figure_width, paper_style
from xaibench.validation import checked

__all__ = ["xor_figure"]

_NEEDED = ("measure", "method", "k", "mean", "low", "high", "seeds")
_PANELS = {
    "projected": ("teacher, layer projected:\nthe subtask", "directions k"),
    "other subtasks": ("teacher, layer projected:\nthe other subtasks", "directions k"),
    "student": ("students: the subtask", "channels k"),
}
_OTHERS = {
    "full": MethodStyle("#009E73", "D"),
    "kd": MethodStyle("#CC79A7", "v"),
    "student-only": MethodStyle("#000000", "X"),
}
_BEST: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (4, 2)}
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_PLACES = {"high": 1.3, "left": 0.5, "between": 0.16, "narrow": 1.1}  # inches


@checked(error=DataError)
def xor_figure(
    table: pd.DataFrame,
    *,
    best: float | None = None,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Accuracy against k: of the teacher on the subtask and on the others with its layer projected, and of students.

    table  columns measure ("projected", "other subtasks", "student"), method, k, mean, low, high, seeds, as
           `experiments.run_experiment` writes them; other measures are not drawn
    best   the accuracy that no classifier exceeds, a dashed line; dotted is chance
    names  basis or method -> what to write in place of its label
    width  "single", "double" or inches
    """
    missing = [name for name in _NEEDED if name not in table]
    shown = [] if missing else [name for name in _PANELS if name in set(table["measure"])]
    if not shown:
        raise DataError(f"the table lacks {', '.join(missing) or 'rows'}: pass that of the experiment xor")
    drawn = table[table["measure"].isin(shown)]
    methods = [str(name) for name in dict.fromkeys(drawn["method"])]
    styles = basis_styles(name for name in methods if name not in _OTHERS) | {
        name: style for name, style in _OTHERS.items() if name in methods
    }
    inches = figure_width(width)
    note = (
        f"bands: 95% t intervals over {table['seeds'].max()} seeds; students of bases and of all directions: SubDistill"
    )
    with paper_style():
        entries: dict[str, Any] = {
            _name(name, names): Line2D([], [], color=style.colour, marker=style.marker, markersize=3, mew=0)
            for name, style in styles.items()
        }
        entries |= {"best possible": Line2D([], [], **_BEST)} if best is not None else {}
        entries["chance"] = Line2D([], [], **_CHANCE)
        titles = [_PANELS[name][0] for name in shown]
        figure, panels = titled_panels(titles, inches, **_PLACES, legend=entries, note=note)
        for name, (axes, first) in zip(shown, panels):
            own = drawn[drawn["measure"] == name]
            for method, style in styles.items():
                rows = own[own["method"] == method].sort_values("k")
                axes.fill_between(rows["k"], rows["low"], rows["high"], color=style.colour, alpha=0.15, linewidth=0)
                axes.plot(rows["k"], rows["mean"], marker=style.marker, color=style.colour, ms=2.8, mew=0, lw=1.1)
            if best is not None:
                axes.axhline(best, **_BEST)
            axes.axhline(0.5, **_CHANCE)
            dimension_axis(axes, int(own["k"].max()))
            if name == "student":
                ticks = sorted(set(own["k"]))
                axes.set_xticks(ticks, map(str, ticks))
                axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
            axes.set_ylim(min(0.4, drawn["low"].min()) - 0.02, 1.0)
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xlabel(_PANELS[name][1], labelpad=1)
            if first:
                axes.set_ylabel("accuracy", labelpad=2)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure


def _name(method: str, names: Mapping[str, str] | None) -> str:
    if method == "full":
        return label(method, {"full": "all directions"} | dict(names or {}))
    return method_label(method, names) if method in _OTHERS else basis_label(method, names)

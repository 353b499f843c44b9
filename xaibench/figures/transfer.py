"""Right against wrong knowledge that students took over from their teacher: a point a seed, with the diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from xaibench.errors import DataError
from xaibench.figures.layout import add_legend, add_note, axes_at, legend_height, note_height
from xaibench.figures.names import method_label
from xaibench.figures.style import MUTED, figure_width, method_styles, new_figure, paper_style
from xaibench.similarity.intervals import seed_interval, speaks_for
from xaibench.validation import checked

__all__ = ["transfer_figure"]

_LEFT, _RIGHT, _BELOW, _HIGHEST = 0.5, 0.1, 0.36, 3.0  # inches
_EQUAL: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "dashes": (4, 2)}


@checked(error=DataError)
def transfer_figure(
    tables: Mapping[str, pd.DataFrame], *, names: Mapping[str, str] | None = None, width: str | float = "single"
) -> Figure:
    """Ceiling-normalised transfer of wrong knowledge, tau-, against that of right knowledge, tau+, by method.

    tables  method -> its `transfer_table`: columns tau+, tau-, wrong, a row a seed
    names   method -> what to write in place of its label
    width   "single", "double" or inches

    Small points are seeds; the large one is their mean with its t intervals over seeds (none for one seed). Above the
    dashed diagonal more of the teacher's mistakes than of its right answers was taken over. Seeds with an undefined
    transfer (NaN) are left out.
    """
    for method, table in tables.items():
        missing = [name for name in ("tau+", "tau-", "wrong") if name not in table]
        if missing:
            raise DataError(f"the table of '{method}' lacks {', '.join(missing)}: pass what transfer_table returns")
    defined = {method: table.dropna(subset=["tau+", "tau-"]) for method, table in tables.items()}
    if all(table.empty for table in defined.values()):
        raise DataError("no seed has a defined transfer: the teacher must be right and wrong at least once each")
    styles = method_styles(defined)
    inches = figure_width(width)
    wrong = sorted({int(count) for table in defined.values() for count in table["wrong"]})
    images = f"{wrong[0]}" if len(wrong) == 1 else f"{wrong[0]} to {wrong[-1]}"
    seeds = min(len(table) for table in defined.values() if len(table))
    note = f"small: a seed; large: mean with 95% intervals for {speaks_for(seeds)}; dashed: equal transfer; "
    note += f"the teacher is wrong on {images} images"
    with paper_style():
        entries = {
            method_label(name, names): Line2D(
                [], [], linestyle="", marker=style.marker, color=style.colour, markersize=5, mew=0
            )
            for name, style in styles.items()
        }
        top, bottom = 0.08 + legend_height(list(entries), inches), _BELOW + note_height(note, inches)
        side = min(inches - _LEFT - _RIGHT, _HIGHEST)
        figure = new_figure(inches, top + side + bottom)
        axes = axes_at(figure, (inches + _LEFT - _RIGHT - side) / 2, top, side, side)
        reach = [0.0]
        for name, table in defined.items():
            style = styles[name]
            right, wrongly = (table[column].to_numpy(dtype=np.float64) for column in ("tau+", "tau-"))
            axes.plot(right, wrongly, style.marker, color=style.colour, markersize=2.6, alpha=0.5, mew=0)
            x, y = seed_interval(right), seed_interval(wrongly)
            axes.plot([x.low, x.high], [y.mean, y.mean], color=style.colour, linewidth=1.1, solid_capstyle="butt")
            axes.plot([x.mean, x.mean], [y.low, y.high], color=style.colour, linewidth=1.1, solid_capstyle="butt")
            axes.plot(x.mean, y.mean, style.marker, color=style.colour, markersize=5, mec="white", mew=0.5, zorder=3)
            reach += [*right, *wrongly, *(end for one in (x, y) for end in (one.low, one.high) if np.isfinite(end))]
        margin = 0.06 * max(max(reach) - min(reach), 0.1)
        limits = min(reach) - margin, max(reach) + margin
        axes.plot(limits, limits, zorder=1, **_EQUAL)
        axes.set(xlim=limits, ylim=limits)
        axes.set_xlabel("transfer of right knowledge, τ+", labelpad=2)
        axes.set_ylabel("transfer of wrong knowledge, τ−", labelpad=2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        add_note(figure, note)
        add_legend(figure, entries)
    return figure

"""How many directions a teacher's layers use: the spectrum of their activations, and the variance that k directions
hold.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from xaibench.errors import DataError
from xaibench.figures.layout import add_note, axes_at, fitting, note_height, panels_across, wrapped
from xaibench.figures.names import layer_label
from xaibench.figures.style import INK, MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["spectra_figure"]

_HIGH, _LEFT, _RIGHT, _BETWEEN, _NARROW = 0.85, 0.8, 0.1, 0.14, 0.8  # inches; the last of the narrowest panel
_TITLE, _LINE, _APART, _LABEL = 0.22, 0.11, 0.1, 0.34  # inches
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}
_SPECTRUM, _SUM = "#0072B2", "#D55E00"
_LEAST = 1e-6  # share of the variance below which an eigenvalue is rounding


@checked(error=DataError)
def spectra_figure(
    spectra: Mapping[str, npt.ArrayLike],
    *,
    widths: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Two panels a layer: the share of the variance in each principal direction, and in the first k together.

    spectra  layer -> eigenvalues of the covariance of its activations (`LayerMoments.spectrum`), largest first
    widths   layer -> k of the student, a vertical line with what its first k directions hold
    names    layer -> what to write in place of its name
    width    "single", "double" or inches
    """
    shares = {layer: _shares(layer, values) for layer, values in spectra.items()}
    if not shares:
        raise DataError("there are no spectra to draw: give the eigenvalues of at least one layer")
    smallest = min(float(share[share > _LEAST].min()) for share in shares.values())
    least = min(10 ** np.floor(np.log10(smallest)), 0.01)
    inches = figure_width(width)
    room = inches - _LEFT - _RIGHT
    across = panels_across(len(shares), room, _BETWEEN, _NARROW)
    panel = (room + _BETWEEN) / across - _BETWEEN
    note = "vertical line: the student's width k" if widths else ""
    with paper_style():
        titles = {layer: wrapped(layer_label(layer, names), 6, panel) for layer in shares}
        size = min(fitting(title, 7.5, panel + 0.8 * _BETWEEN) for title in titles.values())
        above = _TITLE + _LINE * max(title.count("\n") for title in titles.values())
        pitch = above + 2 * _HIGH + _APART + _LABEL
        figure = new_figure(inches, pitch * -(-len(shares) // across) + note_height(note, inches))
        for place, (layer, share) in enumerate(shares.items()):
            line, column = divmod(place, across)
            x, top = _LEFT + column * (panel + _BETWEEN), line * pitch + above
            single, together = (
                axes_at(figure, x, top + i * (_HIGH + _APART), panel, _HIGH, xscale="log") for i in (0, 1)
            )
            single.set_title(titles[layer], pad=4, fontsize=size, linespacing=1.0)
            _draw(single, together, share, least, (widths or {}).get(layer))
            for axes, label in ((single, "of direction k"), (together, "of the first k")):
                axes.tick_params(labelleft=column == 0, labelbottom=axes is together)
                if column == 0:
                    axes.set_ylabel(f"variance\n{label}", labelpad=2, linespacing=1.1)
            together.set_xlabel("directions k", labelpad=1)
        add_note(figure, note)
    return figure


def _shares(layer: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all() or not found.sum() > 0:
        raise DataError(f"the spectrum of '{layer}' must be finite eigenvalues (d,) of which one is above 0")
    return np.asarray(found / found.sum())


def _draw(single: Axes, together: Axes, shares: npt.NDArray[np.float64], least: float, width: int | None) -> None:
    k = np.arange(1, len(shares) + 1)
    seen = shares > _LEAST
    single.plot(k[seen], shares[seen], ".", color=_SPECTRUM, markersize=2.2)
    single.set(yscale="log", ylim=(least, 1.6))
    single.set_yticks([tick for tick in (1, 1e-2, 1e-4, 1e-6) if tick >= least])
    single.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    sums = shares.cumsum()
    together.plot(k, sums, color=_SUM, linewidth=1.3)
    together.set_ylim(0, 1.05)
    together.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    together.set_yticks([0, 0.5, 1])
    for axes in (single, together):
        axes.set_xlim(0.8, len(shares) * 1.25)
        axes.set_xticks(ticks := [tick for tick in (1, 10, 100, 1000) if tick <= len(shares)], map(str, ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(color="#e4e4e4", linewidth=0.5)
        axes.set_axisbelow(True)
        if width is not None:
            axes.axvline(width, color=MUTED, linewidth=0.7)
    if width is not None and width <= len(shares):
        text = f"k = {width}: {100 * sums[width - 1]:.3g}%"
        together.text(0.96, 0.08, text, transform=together.transAxes, ha="right", fontsize=6, color=INK, bbox=_PAPER)

"""Influence weights to look at: the most helpful and the most harmful training images, and how all weights spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaibench.errors import ConfigError, DataError
from xaibench.figures.gallery import FRAME, pixels
from xaibench.figures.layout import axes_at, fitting, wrapped
from xaibench.figures.style import INK, MUTED, figure_width, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["influence_figure"]

_GAP, _MARGIN, _HEADING, _TEXT = 0.06, 0.05, 0.2, 0.27  # inches
_NARROW, _LARGEST, _LINE = 0.5, 0.9, 0.11  # inches of an image, and of a line below it
_PLOT, _LEFT, _BOTTOM, _ABOVE = 1.05, 0.45, 0.34, 0.22  # inches: height of the histogram, room around it
_BINS = 40


@checked(error=DataError)
def influence_figure(
    images: npt.ArrayLike,
    weights: npt.ArrayLike,
    labels: Sequence[str],
    *,
    scores: npt.ArrayLike | None = None,
    count: int = 8,
    title: str = "",
    width: str | float = "double",
) -> Figure:
    """Draw the `count` most helpful images, the `count` most harmful ones, and a histogram of all weights.

    images  (N, C, H, W) in [0, 1], or uint8 in [0, 255]; C = 1 or 3, N >= 2
    weights (N,), finite and at least 0, 1 = as without weights
    labels  N texts, set under the images with their weights
    scores  (N,) influences, positive = harmful, by which the images are chosen; None: by weight, where a large weight
            is taken for helpful (true for all transforms but "exp_minmax")
    count   images a row, at most N // 2, so that none is in both rows, and at most as many as fit the width
    title   above the figure; "" for none
    width   "single", "double" or inches
    """
    given = np.asarray(images)
    values = np.asarray(weights, dtype=np.float64)
    harm = -values if scores is None else np.asarray(scores, dtype=np.float64)
    _check(len(given), values, harm, labels, count)
    inches = figure_width(width)
    fit = int((inches - 2 * _MARGIN + _GAP) / (_NARROW + _GAP))
    order = np.argsort(harm, kind="stable")
    count = min(count, fit, len(order) // 2)
    rows = {"most helpful": order[:count], "most harmful": order[::-1][:count]}
    shown = np.concatenate(list(rows.values()))
    part = given[shown]
    pictures = dict(zip(shown.tolist(), pixels(part / 255 if part.dtype == np.uint8 else part)))

    panel = min((inches - 2 * _MARGIN - _GAP * (count - 1)) / count, _LARGEST)
    high = panel * given.shape[2] / given.shape[3]
    header = 0.2 if title else 0.0
    with paper_style():
        texts = {i: wrapped(f"{labels[i]}\nweight {values[i]:.2f}", 5.5, panel) for i in shown.tolist()}
        pitch = _HEADING + high + _TEXT + _LINE * (max(text.count("\n") for text in texts.values()) - 1)
        height = header + len(rows) * pitch + _ABOVE + _PLOT + _BOTTOM
        figure = new_figure(inches, height)

        def write(text: str, top: float, size: float, bold: bool = False) -> None:
            size = fitting(text, size, inches - 2 * _MARGIN, bold=bold)
            weight = "bold" if bold else "normal"
            figure.text(_MARGIN / inches, 1 - top / height, text, fontsize=size, fontweight=weight, va="top")

        if title:
            write(title, 0.06, 8)
        for row, (heading, chosen) in enumerate(rows.items()):
            top = header + row * pitch
            write(heading, top + 0.06, 7, bold=True)
            for column, index in enumerate(chosen.tolist()):
                axes = axes_at(figure, _MARGIN + column * (panel + _GAP), top + _HEADING, panel, high)
                axes.imshow(pictures[index], interpolation="nearest", aspect="auto")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, linewidth=0.4, color=FRAME)
                text = texts[index]
                axes.set_xlabel(text, labelpad=2, fontsize=fitting(text, 6.5, panel), linespacing=1.15)
        top = header + len(rows) * pitch + _ABOVE
        _histogram(axes_at(figure, _LEFT, top, inches - _LEFT - 2 * _MARGIN, _PLOT), values)
    return figure


def _histogram(axes: Axes, weights: npt.NDArray[np.float64]) -> None:
    top = max(float(weights.max()), 1.0) * 1.02
    axes.hist(weights, bins=_BINS, range=(0, top), color="#b5b5b5")
    axes.axvline(1, color=INK, linewidth=0.8, dashes=(4, 2))
    share = 100 * float((weights < 1).mean())
    axes.annotate(
        f"{share:.0f}% of {len(weights):,} images below 1",
        (1, 1),
        (-4, 1),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=6.5,
    )
    axes.set(xlabel="weight (1: as without weights)", ylabel="training images")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlim(0, top)


def _check(
    n: int,
    weights: npt.NDArray[np.float64],
    harm: npt.NDArray[np.float64],
    labels: Sequence[str],
    count: int,
) -> None:
    if n < 2:
        raise DataError(f"an influence figure needs at least 2 images, got {n}")
    for name, values in (("weights", weights), ("influences", harm)):
        if values.shape != (n,):
            raise DataError(f"{n} images but {name} of the shape {values.shape}: give one an image")
        if not np.isfinite(values).all():
            raise DataError(f"the {name} must be finite, got NaN or infinity: compute them anew")
    if (weights < 0).any():
        raise DataError(f"the weights must be at least 0, got {weights.min():.3g}")
    if len(labels) != n:
        raise DataError(f"{n} images but {len(labels)} labels: give one each ('' for none)")
    if count < 1:
        raise ConfigError(f"count must be at least 1 image a row, got {count}")

"""What single directions of a layer look at: input | teacher's directions | student's, a row an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xaibench.errors import DataError
from xaibench.figures.gallery import FRAME, colour_bar, lines_below, pixels, symmetric_limit, write_below
from xaibench.figures.layout import axes_at, fitting, wrapped
from xaibench.figures.style import figure_width, heatmap_colours, new_figure, paper_style
from xaibench.validation import checked

__all__ = ["directions_figure", "of_one_model"]

_GAP, _GROUP, _LINE, _HEADER, _FOOTER, _MARGIN, _LARGEST = 0.05, 0.12, 0.12, 0.36, 0.6, 0.03, 1.3  # inches


@checked(error=DataError)
def directions_figure(
    images: npt.ArrayLike,
    teacher: npt.ArrayLike,
    student: npt.ArrayLike,
    *,
    titles: Sequence[str],
    cosines: npt.ArrayLike,
    names: tuple[str, str] = ("teacher", "student"),
    width: str | float = "double",
) -> Figure:
    """Draw heatmaps of k directions side by side: columns input, teacher's directions 1..k, student's 1..k.

    images            (N, C, H, W) in [0, 1], C = 1 or 3
    teacher, student  (N, k, H, W) signed relevance
    titles            N titles, set under the inputs, first line in bold; "" for none
    cosines           (N, k) likeness of each direction's two maps, set under the student's panels; NaN shows as -
    names             headings of the two groups of columns
    width             "single", "double" or inches: the most that the figure takes

    Each model's maps of an image are divided by its total |relevance| in the k directions: directions keep their weight
    against each other, and models whose logits differ in scale can be compared by eye. One symmetric scale for all
    panels, clipped beyond the 99.5% quantile.
    """
    pictures = pixels(images)
    maps = [of_one_model(values) for values in (teacher, student)]
    likeness = np.asarray(cosines, dtype=np.float64)
    n, k = maps[0].shape[:2]
    if maps[1].shape[:2] != (n, k) or len(pictures) != n or len(titles) != n or likeness.shape != (n, k) or n == 0:
        raise DataError(
            f"{len(pictures)} images, {len(titles)} titles, heatmaps {maps[0].shape} and {maps[1].shape}, cosines "
            f"{likeness.shape}: give one of each for the same images and directions, at least one"
        )
    limit = symmetric_limit(np.concatenate([values.ravel() for values in maps]))
    colours, norm = heatmap_colours(), Normalize(-limit, limit)

    across = 2 * k + 1
    gaps = 2 * _MARGIN + _GAP * (across - 3) + 2 * _GROUP
    panel = min((figure_width(width) - gaps) / across, _LARGEST)
    inches = panel * across + gaps
    high = panel * pictures.shape[1] / pictures.shape[2]
    starts = [_MARGIN + column * (panel + _GAP) + (_GROUP - _GAP) * _groups(column, k) for column in range(across)]
    with paper_style():
        below = [lines_below(title, panel) for title in titles]
        headings = [wrapped(f"direction {j + 1}", 5.5, panel) for j in range(k)]
        texts = [[wrapped(_cosine(value), 5.5, panel) for value in row] for row in likeness]
        lines = max(max(map(len, below)), max(text.count("\n") + 1 for row in texts for text in row), 1)
        heads = [wrapped(name, 6, (panel + _GAP) * k - _GAP) for name in names]
        header = _HEADER + 0.15 * max(head.count("\n") for head in heads)
        header += _LINE * max(heading.count("\n") for heading in headings)
        pitch = high + _LINE * lines + 0.07
        height = header + n * pitch + _FOOTER
        figure = new_figure(inches, height)
        for row, column in product(range(n), range(across)):
            axes = axes_at(figure, starts[column], header + row * pitch, panel, high, xticks=[], yticks=[])
            axes.spines[:].set(visible=True, linewidth=0.4, color=FRAME)
            if column == 0:
                axes.imshow(pictures[row], interpolation="nearest", aspect="auto")
                write_below(axes, below[row], panel)
                continue
            group, j = divmod(column - 1, k)
            axes.imshow(maps[group][row, j], cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
            if row == 0:
                axes.set_title(headings[j], pad=3, fontsize=fitting(headings[j], 7, panel), linespacing=1.0)
            if group == 1:
                axes.set_xlabel(texts[row][j], labelpad=2, fontsize=fitting(texts[row][j], 6.5, panel))
        for group, name in enumerate(heads):
            left, right = starts[1 + group * k], starts[(group + 1) * k] + panel
            size = fitting(name, 8, right - left)
            figure.text((left + right) / 2 / inches, 1 - 0.04 / height, name, ha="center", va="top", fontsize=size)
        long = min(2.4, 0.6 * inches)
        bar = axes_at(figure, (inches - long) / 2, height - _FOOTER + 0.08, long, 0.07)
        unit = "share of the model's |relevance| in these directions"
        colour_bar(bar, limit, f"{100 * limit:.2g}%", unit, inches - 0.1)
    return figure


def _cosine(value: float) -> str:
    return f"cosine {value:.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "cosine -"


def of_one_model(maps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Maps (N, k, H, W) as they are coloured: divided by the image's sum of |R| over all k; NaN where not finite."""
    values = np.asarray(maps).astype(np.float64)
    if values.ndim != 4:
        raise DataError(f"heatmaps of directions must have the shape (N, k, H, W), got {values.shape}")
    values[~np.isfinite(values).all(axis=(2, 3))] = np.nan
    total = np.nansum(np.abs(values), axis=(1, 2, 3), keepdims=True)
    return values / np.where(total == 0, 1.0, total)


def _groups(column: int, k: int) -> int:
    return (column > 0) + (column > k)

"""The heatmap gallery: input | teacher | students, a row an image, all on one symmetric colour scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from xaibench.errors import DataError, unknown_name
from xaibench.figures.layout import PAGE, axes_at, fitting, panels_across, wrapped
from xaibench.figures.names import label, method_label
from xaibench.figures.style import INK, MUTED, figure_width, heatmap_colours, new_figure, paper_style
from xaibench.validation import checked

__all__ = [
    "CLIP_QUANTILE",
    "FRAME",
    "NORMALISATIONS",
    "colour_bar",
    "displayed",
    "gallery",
    "lines_below",
    "pixels",
    "symmetric_limit",
    "write_below",
]

CLIP_QUANTILE = 0.995
"""Share of the displayed |relevance| that lies within the colour scale."""

NORMALISATIONS = {"share": "share of the map's total |relevance|", "none": "relevance (logits)"}
"""How maps are brought onto one scale -> the unit on the colour bar."""

_GAP, _LINE, _HEADER, _FOOTER, _MARGIN = 0.05, 0.11, 0.2, 0.54, 0.03  # inches
_NARROW, _TEXTS = 0.45, 0.42  # inches of the smallest panel, around each panel with a heading and two lines below
_LARGEST = 1.6  # inches of a panel: with few columns the figure becomes narrower, not its panels huge
FRAME = "#9a9a9a"
"""The colour of lines around images."""

_INCOMPLETE = "undefined: incomplete"


def displayed(maps: npt.ArrayLike, normalise: str = "share") -> npt.NDArray[np.float64]:
    """Maps (N, H, W) as they are coloured.

    "share": R / sum |R|, each map by its own sum, so that models whose logits differ in scale can be
    compared by eye; an all-zero map stays zero. "none": R itself, in logits. A map with a non-finite value
    becomes NaN throughout (drawn grey).
    """
    if normalise not in NORMALISATIONS:
        raise unknown_name("normalisation", normalise, NORMALISATIONS)
    values = np.asarray(maps).astype(np.float64)  # a copy; torch tensors have no other way in without a warning
    if values.ndim != 3:
        raise DataError(f"heatmaps must have the shape (N, H, W), got {values.shape}: sum over the channels first")
    values[~np.isfinite(values).all(axis=(1, 2))] = np.nan
    if normalise == "share":
        total = np.abs(values).sum(axis=(1, 2), keepdims=True)
        values /= np.where(total == 0, 1.0, total)
    return values


def symmetric_limit(values: npt.ArrayLike, quantile: float = CLIP_QUANTILE) -> float:
    """v of the colour scale [-v, v]: the quantile of |values| over all finite ones; 1 if they are all zero.

    A quantile and not the maximum, so that single pixels do not wash out all others.
    """
    magnitudes = np.abs(np.asarray(values, dtype=np.float64))
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    if magnitudes.size == 0:
        return 1.0
    return float(np.quantile(magnitudes, quantile)) or float(magnitudes.max()) or 1.0


def pixels(images: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Images (N, C, H, W) in [0, 1], C = 1 or 3 -> (N, H, W, 3) for display."""
    values = np.asarray(images, dtype=np.float64)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise DataError(f"images must have the shape (N, 1 or 3, H, W), got {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError("image values must lie in [0, 1]: undo the normalisation with Preprocessing.invert")
    return np.repeat(values, 3 // values.shape[1], axis=1).transpose(0, 2, 3, 1)


@checked(error=DataError)
def gallery(
    images: npt.ArrayLike,
    teacher: npt.ArrayLike,
    students: Mapping[str, npt.ArrayLike],
    *,
    titles: Sequence[str],
    scores: Mapping[str, Sequence[str]] | None = None,
    heading: str = "",
    normalise: str = "share",
    names: Mapping[str, str] | None = None,
    width: str | float = "double",
) -> Figure:
    """Draw images and their heatmaps: a row an image; columns input, teacher, each student.

    images     (N, C, H, W) in [0, 1], C = 1 or 3
    teacher    (N, H, W) signed relevance
    students   column name -> (N, H, W)
    titles     N titles, set under the inputs: first line in bold ("woman\\nrather than girl"), "" for none
    scores     column name ("teacher" or a student) -> N texts under its panels
    heading    a line above all columns ("LRP, seed 0"), "" for none
    normalise  "share" or "none", see `displayed`
    names      column -> what to write in place of its method's label
    width      "single", "double" or inches: the most that the figure takes; students that do not fit beside each other
               stand in bands below, with input and teacher again

    A map with a NaN, as an `Attribution.scored_heatmaps` has them for images that the validity checks flagged, is drawn
    grey, with "undefined: incomplete" under it in place of its score.

    The scale is symmetric about zero (white) and the same for all panels; it ends at the 99.5% quantile of
    |values|, beyond which colours are clipped, as the pointed ends of the colour bar say.
    """
    pictures = pixels(images)
    columns = {"teacher": displayed(teacher, normalise)}
    columns.update({name: displayed(maps, normalise) for name, maps in students.items()})
    _check(pictures, columns, titles, scores or {})
    texts = {name: list(lines) for name, lines in (scores or {}).items()}
    for name, maps in columns.items():
        for row in np.flatnonzero(np.isnan(maps).any(axis=(1, 2))).tolist():
            texts.setdefault(name, [""] * len(pictures))[row] = _INCOMPLETE
    limit = symmetric_limit(np.stack(list(columns.values())))
    colours, norm = heatmap_colours(), Normalize(-limit, limit)

    widest = figure_width(width)
    beside = panels_across(len(students), widest - 2 * (_MARGIN + _NARROW + _GAP), _GAP, _NARROW) if students else 0
    bands = [list(students)[i : i + beside] for i in range(0, len(students), beside)] if students else [[]]
    across = beside + 2
    gaps = 2 * _MARGIN + _GAP * (across - 1)
    fit = ((PAGE - _FOOTER) / (len(bands) * len(pictures)) - _TEXTS) * pictures.shape[2] / pictures.shape[1]
    panel = min((widest - gaps) / across, _LARGEST, max(fit, _NARROW))
    inches = panel * across + gaps
    high = panel * pictures.shape[1] / pictures.shape[2]
    with paper_style():
        below = [lines_below(title, panel) for title in titles]
        texts = {name: [wrapped(text, 5.5, panel) for text in own] for name, own in texts.items()}
        lines = max(map(len, below), default=0)
        lines = max([lines, *(text.count("\n") + 1 for own in texts.values() for text in own if text)])
        pitch = high + (_LINE * lines + 0.09 if lines else _GAP)
        labels = {name: wrapped(method_label(name, names), 5.5, panel) for name in columns}
        labels |= {"input": label("input", names)}
        size = min(fitting(text, 7.5, panel + 0.8 * _GAP) for text in labels.values())
        header = _HEADER + _LINE * max(text.count("\n") for text in labels.values())
        above = 0.14 * bool(heading)
        height = above + len(bands) * (header + len(pictures) * pitch) + _FOOTER
        figure = new_figure(inches, height)
        heading_size = fitting(heading, 7.5, inches - 0.1)
        figure.text(0.5, 1 - 0.03 / height, heading, ha="center", va="top", fontsize=heading_size, color=MUTED)
        for band, shown in enumerate(bands):
            start = above + band * (header + len(pictures) * pitch) + header
            for row, column in product(range(len(pictures)), range(2 + len(shown))):
                name = ("input", "teacher", *shown)[column]
                axes = axes_at(figure, _MARGIN + column * (panel + _GAP), start + row * pitch, panel, high)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(visible=True, linewidth=0.4, color=FRAME)
                if name == "input":
                    axes.imshow(pictures[row], interpolation="nearest", aspect="auto")
                    write_below(axes, below[row], panel)
                else:
                    axes.imshow(columns[name][row], cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
                if row == 0:
                    axes.set_title(labels[name], pad=3, fontsize=size, linespacing=1.1)
                if name in texts:
                    text = texts[name][row]
                    axes.set_xlabel(text, labelpad=2.5, fontsize=fitting(text, 6.5, panel), linespacing=1.2)
        left, room = _MARGIN + panel + _GAP, inches - panel - _GAP - 2 * _MARGIN
        long = min(2.4, 0.85 * room)
        bar = axes_at(figure, left + (room - long) / 2, height - _FOOTER + 0.04, long, 0.07)
        unit = NORMALISATIONS[normalise]
        end = f"{100 * limit:.2g}%" if normalise == "share" else f"{limit:.2g}"
        colour_bar(bar, limit, end, unit, min(room, 2 * (inches - left - room / 2)))
    return figure


def colour_bar(axes: Axes, limit: float, end: str, unit: str, inches: float) -> None:
    """Fill axes with the scale of heatmaps, [-limit, limit], written `end`; below, in at most `inches`, the unit."""
    bar = ScalarMappable(Normalize(-limit, limit), heatmap_colours())
    colourbar = axes.figure.colorbar(bar, cax=axes, orientation="horizontal", extend="both", extendfrac=0.03)
    colourbar.outline.set(linewidth=0.4, edgecolor=FRAME)
    axes.set_xticks([-limit, 0.0, limit], [f"−{end}", "0", f"+{end}"])
    axes.tick_params(length=1.5, pad=1.5, labelsize=6)
    text = f"{unit}\ncolours clipped beyond ±{end}"
    axes.set_xlabel(text, labelpad=1.5, fontsize=fitting(text, 6.5, inches))


def lines_below(title: str, inches: float) -> list[tuple[str, bool]]:
    """The lines of a title under a panel of this width, each with whether it is bold: those of the first line are."""
    if not title:
        return []
    first, _, rest = (wrapped(part, 5, inches) for part in title.partition("\n"))
    return [(line, True) for line in first.split("\n")] + [(line, False) for line in rest.split("\n") if line]


def write_below(axes: Axes, lines: Sequence[tuple[str, bool]], inches: float) -> None:
    """Write what `lines_below` gave."""
    size = min((fitting(text, 6, inches, bold=bold) for text, bold in lines), default=6)
    for place, (text, bold) in enumerate(lines):
        axes.annotate(
            text,
            (0.5, 0),
            (0, -2.5 - 72 * _LINE * place),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=size,
            fontweight="bold" if bold else "normal",
            color=INK if bold else MUTED,
        )


def _check(
    pictures: npt.NDArray[np.float64],
    columns: Mapping[str, npt.NDArray[np.float64]],
    titles: Sequence[str],
    scores: Mapping[str, Sequence[str]],
) -> None:
    n = len(pictures)
    if n == 0:
        raise DataError("a gallery needs at least one image, got none")
    if len(titles) != n:
        raise DataError(f"{n} images but {len(titles)} titles: give one each ('' for none)")
    for name, maps in columns.items():
        if maps.shape[0] != n or maps.shape[1:] != columns["teacher"].shape[1:]:
            raise DataError(
                f"heatmaps of '{name}' have the shape {maps.shape}, those of the teacher "
                f"{columns['teacher'].shape}, for {n} images: explain the same images with both models"
            )
    for name, texts in scores.items():
        if name not in columns:
            raise unknown_name("gallery column", name, columns)
        if len(texts) != n:
            raise DataError(f"{n} images but {len(texts)} scores for '{name}': give one text an image")

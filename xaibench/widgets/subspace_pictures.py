"""Subspaces as pictures: spectra, accuracy and relevance against dimension, and what a direction looks at."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from xaibench.data.images import ImageSet
from xaibench.figures.gallery import displayed, pixels, symmetric_limit
from xaibench.figures.spectra import spectra_figure
from xaibench.figures.style import MUTED, new_figure, paper_style
from xaibench.subspace.bases import BASES
from xaibench.widgets.pictures import (
    card,
    cards,
    colour_bar,
    figure_html,
    heatmap_pixels,
    image_html,
    picture_pixels,
)
from xaibench.widgets.subspace_view import Curve, Look, Relevance, Scene

__all__ = ["accuracy_picture", "look_html", "shares_picture", "spectrum_picture"]

Array = npt.NDArray[np.float64]

_DPI = 125
# Okabe & Ito's palette, as in all figures; a basis keeps its colour and its dash whatever else is drawn.
_COLOURS = ("#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#000000", "#8C6D46")
_DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


def spectrum_picture(layer: str, spectrum: Array, student: int) -> str:
    """Eigenvalues of a layer's covariance as shares of its variance, and their sums; the student's width."""
    shares = spectrum / spectrum.sum()
    figure = spectra_figure({layer: spectrum}, widths={layer: student}, width=2.25)
    alt = (
        f"Spectrum of {layer}, {len(shares)} channels: the first direction has {shares[0]:.0%} of the variance, "
        f"the first {student}, as many as the student's channels, {shares[:student].sum():.1%}"
    )
    return figure_html(figure, alt, _DPI)


def accuracy_picture(layer: str, curves: Mapping[str, Curve], student: int, k: int) -> str:
    """Accuracy of the teacher with the layer projected on k directions, a line a basis."""
    with paper_style():
        figure, axes = _by_dimension("teacher's accuracy, layer projected", next(iter(curves.values())).counts)
        for kind, curve in curves.items():
            place = list(BASES).index(kind)
            colour, dash = _COLOURS[place], _DASHES[place]
            axes.plot(curve.counts, curve.accuracy, linestyle=dash, color=colour, marker=".", markersize=3, label=kind)
        _mark(axes, student, k)
        _legend(axes)
    told = []
    for kind, curve in curves.items():
        near = max(i for i, count in enumerate(curve.counts) if count <= max(k, curve.counts[0]))
        told.append(f"{kind} {curve.accuracy[near]:.3f} at k = {curve.counts[near]}, {curve.accuracy[-1]:.3f} at most")
    return figure_html(figure, f"Accuracy of the teacher with {layer} projected: {'; '.join(told)}", _DPI)


def shares_picture(layer: str, scene: Scene, student: int, k: int) -> str:
    """What share of variance and relevance the first directions of the basis carry."""
    sums, relevance = scene.variance.cumsum(), scene.relevance
    alt = f"Shares of the first {k} directions of {scene.basis.kind} at {layer}: variance {sums[k - 1]:.1%}"
    counts = next(iter(scene.curves.values())).counts
    with paper_style():
        figure, axes = _by_dimension("share in the first directions", counts)
        ranks = np.arange(1, counts[-1] + 1)
        axes.plot(ranks, sums[: len(ranks)], color=_COLOURS[1], label="variance")
        if isinstance(relevance, Relevance):
            middle, low, high = (
                np.array([getattr(v, end) for v in relevance.first]) for end in ("mean", "low", "high")
            )
            axes.fill_between(relevance.counts, low, high, color=_COLOURS[0], alpha=0.15, linewidth=0)
            axes.plot(
                relevance.counts, middle, "--", color=_COLOURS[0], marker=".", label=f"relevance ({relevance.rule})"
            )
            alt += f", relevance {relevance.single[:k].sum():.1%}"
        axes.plot(ranks, ranks / len(sums), color=MUTED, linewidth=0.8, linestyle=":", label="k of all directions")
        _mark(axes, student, k)
        _legend(axes)
    return figure_html(figure, alt, _DPI)


def look_html(layer: str, scene: Scene, direction: int, images: ImageSet) -> str:
    """One direction (from 0): its shares, and the images that excite it most and least with what it looks at there."""
    look, relevance = scene.look, scene.relevance
    text = (
        f"direction {direction + 1} of {scene.basis.kind} at {layer}: {scene.variance[direction]:.1%} of the variance"
    )
    if isinstance(relevance, Relevance):
        text += f", {relevance.single[direction]:.1%} of the relevance ({relevance.rule})"
    else:
        text += f"; no share of the relevance: {relevance}"
    parts = [f"<h4>What a direction looks at</h4><div>{html.escape(text)}</div>"]
    if look.problem:
        parts.append(f'<div class="xb-note">no heatmaps: {html.escape(look.problem)}</div>')
    maps = None if look.heatmaps is None else displayed(look.heatmaps)
    limit = 1.0 if maps is None else symmetric_limit(maps)
    half = (len(look.rows) + 1) // 2
    groups = (("most excited", range(half)), ("least excited", range(half, len(look.rows))))
    for heading, places in groups:
        shown = [_image(look, place, maps, limit, images, layer, direction) for place in places]
        parts.append(f'<div class="xb-note">{heading}</div>' + cards(shown, "12rem"))
    if maps is not None:
        parts.append(colour_bar(limit, "share of the direction's |relevance|"))
    return "".join(parts)


def _image(
    look: Look, place: int, maps: Array | None, limit: float, images: ImageSet, layer: str, direction: int
) -> str:
    row = look.rows[place]
    key, label = images.keys[row], images.classes[int(images.labels[row])]
    picture = pixels(images.images[row : row + 1].numpy() / 255)[0]
    inside = image_html(picture_pixels(picture), f"{key}, {label}")
    if maps is not None:
        what = f"Relevance of direction {direction + 1} of {layer} for {key}, {label}"
        inside += image_html(heatmap_pixels(maps[place], limit), what)
    pair = f'<div class="xb-pair">{inside}</div>'
    strength = f"{look.strength[place]:+.2f} sd".replace("-", "−")
    return card(label, pair, html.escape(key), f"<small>{strength}</small>")


def _by_dimension(ylabel: str, counts: tuple[int, ...]) -> tuple[Figure, Axes]:
    figure = new_figure(3.1, 2.6)
    axes = figure.add_axes((0.17, 0.3, 0.8, 0.66), xlabel="directions kept (k)", ylabel=ylabel)
    axes.set_xscale("log", base=2)
    axes.set_xticks([k for k in counts if k & (k - 1) == 0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _mark(axes: Axes, student: int, k: int) -> None:
    axes.axvline(student, color=MUTED, linewidth=0.8, dashes=(4, 2), label=f"student's width ({student})")
    axes.axvline(k, color=_COLOURS[0], linewidth=0.8, label=f"k = {k}")


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=3, fontsize=6, columnspacing=1.0, handlelength=1.8
    )

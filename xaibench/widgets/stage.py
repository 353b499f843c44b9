"""What an explorer shows: images with their maps and scores as one piece of HTML, so that nothing can be mixed up."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xaibench.figures.gallery import NORMALISATIONS, displayed, symmetric_limit
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.similarity.maps import pool, with_sign
from xaibench.widgets.answers import Prediction, Score
from xaibench.widgets.live import TEACHER, Map
from xaibench.widgets.pictures import (
    Bytes,
    blended,
    card,
    cards,
    colour_bar,
    heatmap_pixels,
    image_html,
    picture_pixels,
)

__all__ = ["LOOKS", "STAGE", "Display", "Row", "judged", "score_text", "stage_html"]

Array = npt.NDArray[np.float64]

LOOKS = {
    "heatmap": "heatmaps",
    "overlay": "over the image",
    "difference": "student − teacher",
    "as scored": "as scored",
}
"""Ways to draw the maps -> how a selector words them."""

_DIFFERENCE = "teacher as for heatmaps; students blue below it, red above"
_MEANINGS = {"signed": "blue against, red for", "absolute": "red for or against", "positive": "red for"}
"""Sign of the maps -> what the colours mean."""

STAGE = """
.xaibench .xb-frame { position: relative; }
.xaibench .xb-frame i { position: absolute; box-sizing: border-box; border: 1.5px solid #009e73;
  outline: 1px solid white; pointer-events: none; }
.xaibench .xb-card small { display: block; }
"""


@dataclass(frozen=True, eq=False)
class Row:
    """One image and everything that is known of it.

    picture      (H, W, 3) in [0, 1]
    asked        (class explained, class it is held against)
    label        the image's class; "" for one without
    predictions  model -> what it says
    maps         model -> its map, the teacher's first
    scores       student -> its likeness
    """

    key: str
    picture: Array
    asked: tuple[str, str]
    label: str
    predictions: Mapping[str, tuple[Prediction, ...]]
    maps: Mapping[str, Map]
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Display:
    """How it is drawn. Nothing here needs a model.

    look      see LOOKS
    scale     see `figures.gallery.NORMALISATIONS`
    sign      see `similarity.maps.SIGNS`
    opacity   of the map over the image
    zoom      1 shows all, 4 a quarter of each side, around the cursor
    cursor    (row, column) as shares of the sides; None for none
    """

    look: str = "heatmap"
    scale: str = "share"
    sign: str = "signed"
    opacity: float = 0.6
    zoom: float = 1.0
    cursor: tuple[float, float] | None = None


def stage_html(
    rows: list[Row], display: Display, *, explainer: str, metric: str, grid: int, classes: tuple[str, ...], total: int
) -> str:
    """All rows on one colour scale, with its bar where a map is defined.

    total  number of images that ranks are out of
    """
    drawn = {row.key: _values(row, display, grid) for row in rows}
    shown = np.concatenate([v.ravel() for maps in drawn.values() for v in maps.values()])
    limit = symmetric_limit(shown)
    parts = []
    for row in rows:
        cells = [_input_card(row, display)]
        for model, values in drawn[row.key].items():
            alt = _alt(row, model, explainer, metric)
            picture = heatmap_pixels(_zoomed(values, display), limit)
            if display.look == "overlay" and values.shape == row.picture.shape[:2]:
                picture = blended(picture_pixels(_zoomed(row.picture, display)), picture, display.opacity)
            lines = list(_below(row, model, metric, classes, total))
            if display.cursor is not None:
                lines.append(_at_cursor(values, display.cursor, display.scale))
            cells.append(card(method_label(model), _framed(picture, alt, values.shape, display), *lines))
        parts.append(cards(cells))
    meaning = _DIFFERENCE if display.look == "difference" else _MEANINGS[display.sign]
    if np.isfinite(shown).any():
        parts.append(colour_bar(limit, _unit(display), display.scale == "share", meaning))
    return "".join(parts)


def judged(score: Score) -> str:
    """What a score means, in words."""
    mean, sd = score.chance
    if math.isnan(score.value):
        return "undefined"
    if math.isnan(mean):
        return "chance level unknown"
    if score.value < mean - 2 * sd:
        return "less alike than random maps are: one speaks for where the other speaks against"
    if score.value <= mean + 2 * sd:
        return "no more alike than random maps may be"
    met = [name for name, value in score.nulls.items() if value >= score.value and name != "independent student"]
    if met:
        return f"above chance, but no more than for {' and '.join(met)}"
    independent = score.nulls.get("independent student")
    if independent is not None and independent >= score.value:
        return "above chance, but a student trained without this teacher is as alike"
    return "more alike than random maps"


def score_text(metric: str, value: float) -> str:
    """ "cosine 0.73" """
    return f"{metric_label(metric)} {'undefined' if math.isnan(value) else format(value, '.2f').replace('-', '−')}"


def _values(row: Row, display: Display, grid: int) -> dict[str, Array]:
    """model -> (h, w) values as they are coloured."""
    stacked = np.stack([one.values for one in row.maps.values()]).astype(np.float64)
    if display.look == "as scored":
        stacked = pool(stacked, grid)
    values = displayed(with_sign(stacked, display.sign), display.scale)
    if display.look == "difference":
        values[1:] -= values[:1]
    return dict(zip(row.maps, values))


def _window(shape: tuple[int, ...], display: Display) -> tuple[slice, slice]:
    """The rows and columns that the zoom leaves."""
    middle = display.cursor or (0.5, 0.5)
    chosen = []
    for side, at in zip(shape, middle):
        width = max(1, round(side / display.zoom))
        start = min(max(0, round(at * side - width / 2)), side - width)
        chosen.append(slice(start, start + width))
    return chosen[0], chosen[1]


def _zoomed(values: Array, display: Display) -> Array:
    return values[_window(values.shape, display)]


def _cell(shape: tuple[int, ...], cursor: tuple[float, float]) -> tuple[int, int]:
    return min(shape[0] - 1, int(cursor[0] * shape[0])), min(shape[1] - 1, int(cursor[1] * shape[1]))


def _at_cursor(values: Array, cursor: tuple[float, float], scale: str) -> str:
    row, column = _cell(values.shape, cursor)
    value = values[row, column]
    text = f"{100 * value:+.2f}%" if scale == "share" else f"{value:+.3g}"
    return f"<small>{text.replace('-', '−')} at row {row}, column {column}</small>"


def _framed(picture: Bytes, alt: str, shape: tuple[int, ...], display: Display) -> str:
    mark = ""
    if display.cursor is not None:
        (row, column), (rows, columns) = _cell(shape, display.cursor), _window(shape, display)
        tall, wide = 100 / (rows.stop - rows.start), 100 / (columns.stop - columns.start)
        top, left = (row - rows.start) * tall, (column - columns.start) * wide
        mark = f'<i style="top:{top:.2f}%;left:{left:.2f}%;height:{tall:.2f}%;width:{wide:.2f}%"></i>'
    return f'<div class="xb-frame">{image_html(picture, alt)}{mark}</div>'


def _input_card(row: Row, display: Display) -> str:
    label, contrast = map(html.escape, row.asked)
    own = f"labelled {html.escape(row.label)}" if row.label and row.label != row.asked[0] else ""
    picture = picture_pixels(_zoomed(row.picture, display))
    framed = _framed(picture, f"The image {row.key}", row.picture.shape[:2], display)
    return card("input", framed, f"<b>{label}</b>rather than {contrast}", own, f"<small>{html.escape(row.key)}</small>")


def _below(row: Row, model: str, metric: str, classes: tuple[str, ...], total: int) -> Iterator[str]:
    if every := row.predictions.get(model):
        yield _predicted(every, row.label, classes)
    if row.maps[model].trouble:
        yield f"<small>{html.escape(row.maps[model].trouble)}</small>"
    if row.maps[model].told:
        yield f"<small>{html.escape(row.maps[model].told)}</small>"
    if model == TEACHER:
        return
    score = row.scores[model]
    yield f"<b>{score_text(metric, score.value)}</b>chance {score.chance[0]:.2f} ± {score.chance[1]:.2f}"
    if not math.isnan(score.value):
        yield f"<small>{judged(score)}</small>"
    if not math.isnan(score.rank):
        yield f"<small>rank {score.rank:.0f} of {total}, 1 is least alike</small>"


def _predicted(every: tuple[Prediction, ...], label: str, classes: tuple[str, ...]) -> str:
    names = sorted({classes[one.predicted] for one in every})
    sure = float(np.mean([one.confidence for one in every]))
    right = [classes[one.predicted] == label for one in every]
    mark = "" if not label else "✓" if all(right) else "✗" if not any(right) else f"{sum(right)} of {len(right)} ✓"
    return f"predicts {html.escape(' or '.join(names))} {sure:.0%} {mark}"


def _alt(row: Row, model: str, explainer: str, metric: str) -> str:
    about = f"{explainer_label(explainer)} of {method_label(model)} for {row.key}"
    return about if model == TEACHER else f"{about}: {score_text(metric, row.scores[model].value)}"


def _unit(display: Display) -> str:
    unit = NORMALISATIONS[display.scale]
    if display.look == "difference":
        return f"students: {unit}, less the teacher's"
    return f"{unit}, {display.sign}" if display.sign != "signed" else unit

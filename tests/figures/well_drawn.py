"""What every figure owes to a reader, measured as it is drawn."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SMALLEST = 3.9  # points of a text that can be read in print, with a good will


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that a drawing of the figure shows, with its box in pixels."""
    found: list[Text] = []
    draw = Text.draw

    def noting(text: Text, *args: object, **kwargs: object) -> object:
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        return draw(text, *args, **kwargs)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        figure.canvas.draw()
    return [(text, Text.get_window_extent(text)) for text in dict.fromkeys(found)]


def assert_well_drawn(figure: Figure) -> None:
    """Texts lie on the canvas, can be read and overlap nothing; axes lie on it apart, filled and with limits."""
    texts = drawn_texts(figure)
    canvas = figure.bbox
    assert texts, "there is no text"
    for text, box in texts:
        assert _within(box, canvas, 1), f"'{text.get_text()}' leaves the canvas: {box} in {canvas}"
        assert text.get_fontsize() >= SMALLEST, f"'{text.get_text()}' has {text.get_fontsize():.1f} points"
    for (one, a), (other, b) in combinations(texts, 2):
        assert not _overlap(a, b, 1), f"'{one.get_text()}' overlaps '{other.get_text()}'"
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for axes, box in zip(figure.axes, boxes):
        assert _within(box, canvas, 1), f"axes {axes} leave the canvas"
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all(), f"axes {axes} have no limits"
        assert len(set(axes.get_xlim())) == len(set(axes.get_ylim())) == 2
        assert axes.has_data(), f"axes {axes} are empty"
    for a, b in combinations(boxes, 2):
        assert not _overlap(a, b, 1), f"axes overlap: {a}, {b}"
    for legend in figure.legends:
        place = legend.get_window_extent()
        assert not any(_overlap(place, box, 1) for box in boxes), "the legend hides an axis"
    assert any(_titled(text, figure) for text, _ in texts), "nothing says what the figure shows"


def _titled(text: Text, figure: Figure) -> bool:
    """Whether a text is a title or a label of an axis."""
    labels = [label for axes in figure.axes for label in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    return text in labels


def _within(box: Bbox, room: Bbox, slack: float) -> bool:
    return bool(
        box.x0 >= room.x0 - slack
        and box.y0 >= room.y0 - slack
        and box.x1 <= room.x1 + slack
        and box.y1 <= room.y1 + slack
    )


def _overlap(a: Bbox, b: Bbox, slack: float) -> bool:
    """Whether two boxes share more than `slack` pixels in both directions."""
    wide, high = (
        min(getattr(a, f"{c}1"), getattr(b, f"{c}1")) - max(getattr(a, f"{c}0"), getattr(b, f"{c}0")) for c in "xy"
    )
    return bool(wide > slack and high > slack)

"""Where things stand on a figure, in inches: panels, legends, and texts that fit their room."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from xaibench.figures.fonts import text_width
from xaibench.figures.style import MUTED, new_figure

__all__ = [
    "PAGE",
    "add_legend",
    "add_note",
    "axes_at",
    "fitting",
    "legend_columns",
    "legend_height",
    "note_height",
    "panels_across",
    "titled_panels",
    "wrapped",
]

PAGE = 9.5
"""Inches that a page has for a figure above its caption."""

_NOTE, _NOTE_LINE = 6.2, 0.115  # points, inches
_RIGHT, _ABOVE, _TITLE_LINE, _BELOW = 0.1, 0.22, 0.11, 0.34  # inches, around titled panels
_LEGEND_LINE, _LEGEND_KEY, _LEGEND_GAP = 0.13, 0.24, 0.14  # inches: a line, a key with its gap, between columns


def axes_at(figure: Figure, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
    """Axes by the place of their upper left corner and their size, in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high), **options)


def panels_across(count: int, room: float, between: float, least: float) -> int:
    """How many of `count` panels, each at least `least` inches wide, stand side by side, in lines of like length."""
    fit = max(1, int((room + between + 1e-9) / (least + between)))
    return -(-count // -(-count // fit))


def titled_panels(
    titles: Sequence[str],
    inches: float,
    *,
    high: float,
    left: float,
    between: float,
    narrow: float,
    legend: Iterable[str],
    note: str,
) -> tuple[Figure, list[tuple[Axes, bool]]]:
    """A figure with a panel for each title, in lines of like length; and each panel's axes, and whether it begins one.

    high, left, between, narrow  inches: of a panel, left of a line, between panels, of the narrowest panel
    legend, note                 what `add_legend` and `add_note` will add, for which there is room
    """
    room = inches - left - _RIGHT
    across = panels_across(len(titles), room, between, narrow)
    panel = (room + between) / across - between
    texts = [wrapped(title, 6, panel) for title in titles]
    size = min(fitting(text, 7.5, panel + min(0.8 * between, 2 * _RIGHT)) for text in texts)
    above = _ABOVE + _TITLE_LINE * max(text.count("\n") for text in texts)
    top, pitch = legend_height(list(legend), inches), above + high + _BELOW
    figure = new_figure(inches, top + pitch * -(-len(titles) // across) + note_height(note, inches))
    panels = []
    for place, text in enumerate(texts):
        line, column = divmod(place, across)
        axes = axes_at(figure, left + column * (panel + between), top + line * pitch + above, panel, high)
        axes.set_title(text, pad=4, fontsize=size, linespacing=1.0)
        axes.tick_params(labelleft=column == 0)
        panels.append((axes, column == 0))
    return figure, panels


def fitting(text: str, points: float, inches: float, *, bold: bool = False) -> float:
    """The font size, at most `points`, at which the longest line of `text` takes at most `inches`."""
    wide = text_width(text, points, bold=bold)
    return points if wide <= inches else points * inches / wide


def wrapped(text: str, points: float, inches: float) -> str:
    """`text` in lines of at most `inches` where it can be broken: at spaces, in long words behind any of ",=_-:/+"."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            whole = text_width(word, points) <= inches
            for i, part in enumerate([word] if whole else re.split(r"(?<=[,=_:/+-])", word)):
                longer = f"{lines[-1]}{'' if i or not lines[-1] else ' '}{part}"
                if lines[-1] and text_width(longer, points) > inches:
                    lines.append(part)
                else:
                    lines[-1] = longer
    return "\n".join(lines)


def note_height(note: str, inches: float) -> float:
    """Inches that `add_note` takes; 0 for no note."""
    return 0.05 + _NOTE_LINE * (wrapped(note, _NOTE, inches - 0.1).count("\n") + 1) if note else 0.0


def add_note(figure: Figure, note: str) -> None:
    """A note at the bottom of the figure, in as many lines as it needs."""
    inches, height = figure.get_size_inches()
    text = wrapped(note, _NOTE, inches - 0.1)
    figure.text(0.5, 0.04 / height, text, ha="center", va="bottom", fontsize=_NOTE, color=MUTED, linespacing=1.15)


def legend_columns(labels: Iterable[str], inches: float, points: float = 6.5) -> int:
    """How many columns of a legend with these labels, filled downwards one after another, fit into a width."""
    wide = [_LEGEND_KEY + text_width(label, points) for label in labels]
    for columns in range(len(wide), 1, -1):
        down, longer = divmod(len(wide), columns)
        starts = [column * down + min(column, longer) for column in range(columns + 1)]
        room = sum(max(wide[a:b]) for a, b in zip(starts, starts[1:])) + _LEGEND_GAP * (columns - 1)
        if room <= inches - 0.1:
            return columns
    return 1


def legend_height(labels: Sequence[str], inches: float) -> float:
    """Inches that `add_legend` takes; 0 for no labels."""
    return _LEGEND_LINE * -(-len(labels) // legend_columns(labels, inches)) + 0.06 if labels else 0.0


def add_legend(figure: Figure, entries: Mapping[str, Any], **options: Any) -> Legend:
    """A legend at the top of the figure, label -> what is drawn, in as many columns as fit its width."""
    inches = figure.get_size_inches()[0]
    widest = max(text_width(label, 6.5) for label in entries)
    return figure.legend(
        list(entries.values()),
        list(entries),
        loc="upper center",
        ncols=legend_columns(entries, inches),
        fontsize=min(6.5, 6.5 * (inches - 0.1 - _LEGEND_KEY) / widest),
        handlelength=1.8,
        handletextpad=0.5,
        columnspacing=1.3,
        labelspacing=0.4,
        borderpad=0,
        borderaxespad=0.4,
        **options,
    )

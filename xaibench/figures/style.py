"""One look for all figures: column widths, fonts, colours that stay with their method, reproducible files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from xaibench.errors import ConfigError, unknown_name
from xaibench.figures.fonts import any_script, embedded_lightly, families
from xaibench.files import write_atomically
from xaibench.similarity.intervals import speaks_for
from xaibench.validation import checked

__all__ = [
    "INK",
    "MUTED",
    "WIDTHS",
    "MethodStyle",
    "figure_width",
    "heatmap_colours",
    "interval_note",
    "method_styles",
    "new_figure",
    "paper_style",
    "save_figure",
    "stem_and_formats",
]

WIDTHS = {"single": 3.35, "double": 6.9}
"""Column widths in inches: one column, and the full width of a two-column page."""

INK, MUTED = "#1a1a1a", "#6b6b6b"

_font: ContextVar[str] = ContextVar("font", default="sans")

_RC: Any = {
    "font.size": 7.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 7.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.2,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "xaibench",
}

# Okabe & Ito's palette (jfly.uni-koeln.de/color), told apart with every common colour vision deficiency;
# its yellow is left out: too light for thin lines on white.
_PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D46")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_FIXED = {"subdistill": 0, "kd": 1, "student-only": 2, "at": 3, "vid": 4, "vkd": 5}

_UNDATED = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn in all figures: colour (hex), and marker, as colour alone is no sure cue."""

    colour: str
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Colour and marker for each method name.

    Known methods keep theirs whatever else is shown; the others take what is free, by their names' order.
    Options after a colon count as part of the name: "subdistill" and "subdistill:centring=mean" differ.

    >>> styles = method_styles(["kd", "mine"])
    >>> styles["kd"] == method_styles(["kd"])["kd"], styles["kd"] == styles["mine"]
    (True, False)
    """
    names = list(dict.fromkeys(methods))
    slots = {name: _FIXED[name] for name in names if name in _FIXED}
    for name in sorted(set(names) - set(slots)):
        preferred = _FIXED.get(name.split(":")[0])
        free = [slot for slot in range(len(_PALETTE)) if slot not in slots.values()]
        if preferred is not None and preferred in free:
            slots[name] = preferred
        else:
            slots[name] = free[-1] if free else len(slots)
    return {name: _slot_style(slots[name]) for name in names}


def _slot_style(slot: int) -> MethodStyle:
    turn, place = divmod(slot, len(_PALETTE))
    return MethodStyle(_PALETTE[place], _MARKERS[(place + turn) % len(_MARKERS)])


def heatmap_colours() -> Colormap:
    """The diverging map of all heatmaps: blue negative, exactly white zero, red positive, grey undefined."""
    # 257 colours, so that one of them is the middle: with seismic's own 256, zero is a shade of pink.
    return matplotlib.colormaps["seismic"].resampled(257).with_extremes(bad="#bdbdbd")


def figure_width(width: str | float) -> float:
    """Inches of a preset ("single", "double") or of a number given in inches (1 to 20), also as text ("3.5")."""
    if isinstance(width, str):
        if width in WIDTHS:
            return WIDTHS[width]
        try:
            width = float(width)
        except ValueError as error:
            raise unknown_name("figure width", width, [*WIDTHS, "inches"]) from error
    if not 1 <= width <= 20:
        raise ConfigError(f"figure width {width:g} in is out of range: give 1 to 20 inches, 'single' or 'double'")
    return float(width)


def interval_note(table: pd.DataFrame, several: bool = False) -> str:
    """What a figure says of its intervals: for whom they speak, by the least of the columns seeds and subtasks."""
    text = "95% intervals" if several else "95% interval"
    if "seeds" not in table or table["seeds"].isna().all():
        return text
    subtasks = int(table["subtasks"].min()) if "subtasks" in table else 1
    return f"{text} for {speaks_for(int(table['seeds'].min()), subtasks)}"


@contextmanager
def paper_style(font: str | None = None) -> Iterator[None]:
    """Within the block matplotlib draws and writes in the house style; its settings are restored after.

    A class may have any name: $ is a dollar, and letters that the font lacks are drawn as `any_script` does.

    font  of figures that are made within the block: a name in `fonts.FONTS`; None: that of the block around, else sans
    """
    font = font or _font.get()
    with matplotlib.rc_context(_RC | {"font.family": list(families(font))}):
        token = _font.set(font)
        try:
            yield
        finally:
            _font.reset(token)


class _Canvas(FigureCanvasAgg):
    """Draws text in any script, and measures it as it draws it."""

    def get_renderer(self) -> Any:
        renderer = super().get_renderer()  # type: ignore[no-untyped-call]
        any_script(renderer)
        return renderer


class _Figure(Figure):
    """A figure whose own methods draw and save text in any script and in its own font, without a warning."""

    font = "sans"

    def draw(self, renderer: Any) -> None:
        with paper_style(self.font):  # ticks are made when they are drawn
            if isinstance(self.canvas, FigureCanvasSVG):  # its text stays as it is: who shows it has other fonts
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
                    super().draw(renderer)
            else:
                any_script(renderer)
                super().draw(renderer)


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure (inches) on an Agg canvas, unknown to pyplot, in the font of `paper_style`."""
    figure = _Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.font = _font.get()
    _Canvas(figure)
    return figure


@checked
def save_figure(figure: Figure, path: Path | str, formats: Sequence[str] | None = None) -> list[Path]:
    """Write `figure` as path.pdf and path.png, or in the formats that are given; return the paths.

    path     without suffix, or with that of a format ("fig.pdf"), which then is the one that is written
    formats  pdf, png, svg

    Text stays text (TrueType in PDF, <text> in SVG), PNG has 300 dots an inch, and no file holds a date: the
    same figure gives the same bytes. Each file is written atomically. Raises UnknownNameError for other formats,
    ConfigError where path and formats contradict each other.
    """
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder: give the name of a file in it")
    if formats is not None and not formats:
        raise ConfigError("formats is empty, so that nothing would be written: leave it out, or name pdf, png or svg")
    stem, suffixes = stem_and_formats(Path(path), formats)
    paths = []
    for suffix in suffixes:

        def write(partial: Path, suffix: str = suffix) -> None:
            figure.savefig(partial, format=suffix, metadata=_UNDATED[suffix])

        with paper_style(getattr(figure, "font", None)), embedded_lightly():
            paths.append(write_atomically(stem.with_name(f"{stem.name}.{suffix}"), write))
    return paths


def stem_and_formats(
    path: Path, formats: Sequence[str] | None = None, usual: Sequence[str] = ("pdf", "png")
) -> tuple[Path, Sequence[str]]:
    """What `save_figure` writes: a path without the suffix of a format, and the formats; None: the path's, or `usual`.

    Raises as `save_figure` does.
    """
    for suffix in formats or ():
        if suffix not in _UNDATED:
            raise unknown_name("figure format", suffix, _UNDATED)
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in FigureCanvasAgg.get_supported_filetypes():  # of matplotlib
        return path, usual if formats is None else formats
    if suffix not in _UNDATED:
        raise unknown_name("figure format", suffix, _UNDATED)
    if formats is not None and list(formats) != [suffix]:
        raise ConfigError(f"{path.name} is a {suffix} file, but the formats are {', '.join(formats)}: leave one out")
    return path.with_suffix(""), (suffix,)

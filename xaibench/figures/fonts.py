"""The fonts of figures: which there are, how wide a text is in them, and what is drawn where they lack a character."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from xaibench.errors import unknown_name
from xaibench.files import write_atomically

__all__ = ["FONTS", "any_script", "embedded_lightly", "families", "text_width"]

FONTS = {
    "sans": ("DejaVu Sans",),
    "serif": ("STIXGeneral", "DejaVu Sans"),
    "latex": ("Computer Modern", "STIXGeneral", "DejaVu Sans"),
}
"""Name of a font -> its families, which come with matplotlib; characters that the first lacks are drawn in the next."""

_LAYOUT = ("GSUB", "GPOS", "GDEF")
_one_at_a_time = threading.RLock()

_COMPUTER_MODERN = "Computer Modern"
_ASCII_OF_TEX = frozenset(
    map(chr, [*range(ord("0"), ord("9") + 1), *range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)])
) | frozenset(" !#$%&'()*+,-./:;=?@[]")


def families(font: str) -> tuple[str, ...]:
    """The families of a font by its name in `FONTS`. Raises UnknownNameError for another name."""
    if font not in FONTS:
        raise unknown_name("font", font, FONTS)
    if _COMPUTER_MODERN in FONTS[font]:
        _add_computer_modern()
    return FONTS[font]


def text_width(text: str, points: float, *, bold: bool = False) -> float:
    """Inches that the longest line of `text` takes in the current font, with 3% to spare for rounding to pixels."""
    family = tuple(matplotlib.rcParams["font.family"])
    return max(_line_width(line, family, bold) for line in text.split("\n")) * points


@functools.lru_cache(maxsize=4096)
def _line_width(line: str, family: tuple[str, ...], bold: bool) -> float:
    """Inches at 1 point."""
    prop = FontProperties(family=list(family), size=10, weight="bold" if bold else "normal")
    return float(_ruler().get_text_width_height_descent(line, prop, False)[0]) / 150 / 10 * 1.03


@functools.cache
def _ruler() -> Any:
    renderer = RendererAgg(1, 1, 150)  # type: ignore[no-untyped-call]
    any_script(renderer)
    return renderer


def any_script(renderer: Any) -> None:
    """Have a renderer of matplotlib draw and measure text in fonts that have its glyphs, from now on.

    Characters that a text's own fonts lack are drawn in an installed font that has them, those that no font has as
    their code ("\\u732b"). Text in fonts without TrueType outlines, which PDF files cannot hold as text, is drawn as
    outlines.
    """
    measure, draw = renderer.get_text_width_height_descent, renderer.draw_text

    def measure_any(s: str, prop: FontProperties, ismath: Any) -> Any:
        return measure(s, prop, ismath) if ismath else measure(*_readable(s, prop)[:2], ismath)

    def draw_any(
        gc: Any, x: float, y: float, s: str, prop: FontProperties, angle: float, *rest: Any, **more: Any
    ) -> None:
        s, prop, as_text = _readable(s, prop)
        if as_text:
            draw(gc, x, y, s, prop, angle, *rest, **more)
        else:
            RendererBase.draw_text(renderer, gc, x, y, s, prop, angle)

    # One may be there without the other: matplotlib takes `draw_text` away while it only measures.
    if measure.__name__ != measure_any.__name__:
        renderer.get_text_width_height_descent = measure_any
    if draw.__name__ != draw_any.__name__:
        renderer.draw_text = draw_any


@contextmanager
def embedded_lightly() -> Iterator[None]:
    """Within the block matplotlib embeds fonts without the tables by which programs lay out text.

    In a PDF file every glyph has its place, so that nothing reads them; to cut them down takes half of the time of
    saving.
    """
    options = subset.Options
    with _one_at_a_time:
        before = options._drop_tables_default
        options._drop_tables_default = [*before, *_LAYOUT]
        try:
            yield
        finally:
            options._drop_tables_default = before


def _readable(text: str, prop: FontProperties) -> tuple[str, FontProperties, bool]:
    """The text and font to draw, and whether the font can be kept as text."""
    own = tuple(prop.get_family())
    missing = frozenset(text) - _characters(own)
    if not missing:
        return text, prop, True
    fonts = _fonts(missing, len(fontManager.ttflist))
    for character in missing - set(fonts):
        text = text.replace(character, character.encode("unicode_escape").decode())
    fitting = prop.copy()
    fitting.set_family([*own, *dict.fromkeys(font.name for font in fonts.values())])
    return text, fitting, all(_has_truetype_outlines(_opened(font)) for font in fonts.values())


@functools.cache
def _characters(own: tuple[str, ...]) -> frozenset[str]:
    """The characters of some families together."""
    return frozenset().union(*(map(chr, FT2Font(findfont(family)).get_charmap()) for family in own))


@functools.cache
def _fonts(characters: frozenset[str], installed: int) -> dict[str, FontEntry]:
    """Character -> an installed font that has it: few fonts for all, best with TrueType outlines, upright and regular.

    installed  number of fonts, as more may be added
    """
    able = []
    for entry in fontManager.ttflist:
        font = _opened(entry)
        has = {character for character in characters if font.get_char_index(ord(character))}
        if has and "last resort" not in entry.name.lower():  # boxes for all characters
            regular = entry.style == "normal" and entry.weight in (400, "normal", "regular", "book")
            able.append((not _has_truetype_outlines(font), not regular, entry.name, entry.fname, entry, has))
    able.sort(key=lambda one: one[:4])
    found: dict[str, FontEntry] = {}
    while able:
        *_, entry, has = max(able, key=lambda one: len(one[-1] - set(found)))
        if not has - set(found):
            break
        found |= dict.fromkeys(sorted(has - set(found)), entry)
    return found


def _opened(entry: FontEntry) -> FT2Font:
    index = getattr(entry, "index", 0)  # in a collection; matplotlib before 3.11 knows the first of each
    return FT2Font(entry.fname, face_index=index) if index else FT2Font(entry.fname)


def _has_truetype_outlines(font: FT2Font) -> bool:
    table = font.get_sfnt_table("maxp")
    return table is not None and table["version"] == (1, 0)


def _add_computer_modern() -> None:
    """Let matplotlib know its Computer Modern (cmr10, cmb10) under the characters that its glyphs show.

    As shipped its places are TeX's: there is no minus, and "|" or "±" would be drawn as other signs. Letters, figures
    and what else is in its place stay.
    """
    if any(entry.name == _COMPUTER_MODERN for entry in fontManager.ttflist):
        return
    for source, style in (("cmr10", "Regular"), ("cmb10", "Bold")):
        path = Path(matplotlib.get_cachedir()) / f"xaibench-{source}-{style}.ttf"
        if not path.is_file():
            write_atomically(path, functools.partial(_repaired, source, style))
        fontManager.addfont(path)


def _repaired(source: str, style: str, path: Path) -> None:
    log = logging.getLogger("fontTools.ttLib.tables._h_e_a_d")  # warns of the date 1970
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        font = TTFont(findfont(source), recalcTimestamp=False)
        for table in font["cmap"].tables:
            table.cmap = {code: glyph for code, glyph in table.cmap.items() if chr(code) in _ASCII_OF_TEX}
        for record in font["name"].names:
            name = {1: _COMPUTER_MODERN, 2: style, 4: f"{_COMPUTER_MODERN} {style}", 6: f"ComputerModern-{style}"}
            record.string = name.get(record.nameID, record.toUnicode())
        font["OS/2"].usWeightClass = {"Regular": 400, "Bold": 700}[style]
        font.save(path)
    finally:
        log.setLevel(level)

"""Text in any script: what the figures' own font lacks is drawn in another installed font, or as its code."""

from __future__ import annotations

import functools
from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.font_manager import FontEntry, FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

__all__ = ["FAMILY", "any_script"]

FAMILY = "DejaVu Sans"
"""The font of all figures, which comes with matplotlib."""


def any_script(renderer: Any) -> None:
    """Have a renderer of matplotlib draw and measure text in fonts that have its glyphs, from now on.

    Characters that DejaVu Sans lacks are drawn in an installed font that has them, those that no font has as their code
    ("\\u732b"). Text in fonts without TrueType outlines, which PDF files cannot hold as text, is drawn as outlines.
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


def _readable(text: str, prop: FontProperties) -> tuple[str, FontProperties, bool]:
    """The text and font to draw, and whether the font can be kept as text."""
    missing = frozenset(text) - _own()
    if not missing:
        return text, prop, True
    fonts = _fonts(missing, len(fontManager.ttflist))
    for character in missing - set(fonts):
        text = text.replace(character, character.encode("unicode_escape").decode())
    fitting = prop.copy()
    fitting.set_family([FAMILY, *dict.fromkeys(font.name for font in fonts.values())])
    return text, fitting, all(_has_truetype_outlines(_opened(font)) for font in fonts.values())


@functools.cache
def _own() -> frozenset[str]:
    """The characters of the figures' own font."""
    return frozenset(map(chr, FT2Font(findfont(FAMILY)).get_charmap()))


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

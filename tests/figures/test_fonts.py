"""Names in any script, drawn with whatever fonts are installed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

from xaibench.figures.fonts import FONTS, families, text_width
from xaibench.figures.style import new_figure, paper_style, save_figure

UNKNOWN, ELSE = "\U0010fffd", "\U0010fffc"  # private characters, which no font has but those made here


def drawn(text: str, **options: Any) -> bytes:
    figure, file = figure_with(text), io.BytesIO()
    with paper_style():
        figure.savefig(file, **options)
    return file.getvalue()


def figure_with(text: str) -> Figure:
    with paper_style():
        figure = new_figure(2, 1)
        axes = figure.add_axes((0.4, 0.3, 0.5, 0.5))
        axes.set_title(text)
        axes.set_yticks([0, 1], labels=[text, "kd"])
    return figure


def add_font(path: Path, character: str, truetype: bool) -> None:
    """A font of one glyph, a square, named like its file."""
    name = path.stem
    corners = [(100, 0), (100, 700), (800, 700), (800, 0)]
    builder = FontBuilder(1000, isTTF=truetype)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(character): "square"})
    pens: Any = [TTGlyphPen(None) if truetype else T2CharStringPen(1000, None) for _ in range(2)]
    for pen in pens:
        pen.moveTo(corners[0])
        for corner in corners[1:]:
            pen.lineTo(corner)
        pen.closePath()
    glyphs = {name: pen.glyph() if truetype else pen.getCharString() for name, pen in zip((".notdef", "square"), pens)}
    if truetype:
        builder.setupGlyf(glyphs)
    else:
        builder.setupCFF(name, {"FullName": name}, glyphs, {})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular", "psName": name})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)
    fontManager.addfont(path)


@pytest.fixture(autouse=True)
def own_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is gone after it."""
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))


@pytest.mark.parametrize(
    "options", [{"format": "png"}, {"format": "pdf", "metadata": {"CreationDate": None}}, {"bbox_inches": "tight"}]
)
def test_a_character_without_a_glyph_stands_as_its_code(options: dict[str, Any]) -> None:
    assert drawn(f"a {UNKNOWN}\n猫", **options) == drawn("a \\U0010fffd\n猫", **options)


@pytest.mark.parametrize(("character", "font"), [(UNKNOWN, "outlines.ttf"), (ELSE, "postscript.otf")])
def test_an_installed_font_that_has_the_glyph_is_taken(tmp_path: Path, character: str, font: str) -> None:
    text, code = f"a {character}", f"a {character.encode('unicode_escape').decode()}"
    assert drawn(text, format="png") == drawn(code, format="png")
    path = tmp_path / font
    add_font(path, character, truetype=path.suffix == ".ttf")
    assert drawn(text, format="png") not in (drawn(code, format="png"), drawn("a ", format="png"))
    pdf, svg = save_figure(figure_with(text), tmp_path / "figure", ("pdf", "svg"))
    assert (f"+{path.stem}".encode() in pdf.read_bytes()) == (path.suffix == ".ttf")  # else it is drawn as outlines
    assert f">{text}</text>" in svg.read_text(encoding="utf-8")


def test_a_figure_keeps_its_text_and_measures_what_it_draws(tmp_path: Path) -> None:
    figure, code = figure_with(UNKNOWN), figure_with(r"\U0010fffd")
    widths = [one.axes[0].title.get_window_extent().width for one in (figure, code)]
    assert widths[0] == widths[1]
    save_figure(figure, tmp_path / "figure", ("png", "pdf"))
    assert figure.axes[0].get_title() == UNKNOWN


@pytest.mark.parametrize("font", FONTS)
def test_bold_text_is_bold_in_every_font(font: str) -> None:
    (family, *_) = families(font)
    regular, bold = (FT2Font(findfont(FontProperties(family=family, weight=weight))) for weight in ("normal", "bold"))
    assert ("Bold" in bold.style_name, "Bold" in regular.style_name) == (True, False)
    with paper_style(font):
        assert text_width("likeness", 10, bold=True) > text_width("likeness", 10)

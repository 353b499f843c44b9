import io
import re
import sys
import zlib
from contextlib import suppress

import matplotlib
import pytest
from fontTools import subset
from fontTools.ttLib import TTFont, TTLibError
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties

from xaibench.errors import ConfigError, RunFolderError, UnknownNameError
from xaibench.figures.fonts import FONTS, _readable, embedded_lightly, families
from xaibench.figures.names import explainer_label, metric_label
from xaibench.figures.style import (
    figure_width,
    heatmap_colours,
    method_styles,
    new_figure,
    paper_style,
    save_figure,
)


def drawing():
    with paper_style():
        figure = new_figure(2, 1)
        axes = figure.add_axes((0.2, 0.2, 0.7, 0.7))
        axes.plot([0, 1], [0, 1])
        axes.set_xlabel("likeness of café")
    return figure


def test_a_known_method_keeps_its_style_in_any_company():
    alone = method_styles(["kd"])["kd"]
    assert method_styles(["subdistill", "kd", "student-only", "mine"])["kd"] == alone
    assert method_styles(["mine", "kd"])["kd"] == alone


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text("abc:=", min_size=1, max_size=6), unique=True, max_size=8), st.randoms())
def test_up_to_eight_methods_differ_and_their_order_does_not_matter(names, random):
    styles = method_styles(names)
    assert list(styles) == names
    assert len({style.colour for style in styles.values()}) == len(names)
    assert len({style.marker for style in styles.values()}) == len(names)
    shuffled = random.sample(names, len(names))
    assert method_styles(shuffled) == styles


def test_more_methods_than_colours_still_differ():
    styles = method_styles([f"method{i}" for i in range(20)])
    assert len(set(styles.values())) == 20


def test_options_after_a_colon_take_the_free_style_of_the_method():
    assert method_styles(["kd:T=2"])["kd:T=2"] == method_styles(["kd"])["kd"]
    both = method_styles(["kd", "kd:T=2"])
    assert both["kd"] == method_styles(["kd"])["kd"] != both["kd:T=2"]


def test_labels():
    assert metric_label("topk_iou") == "top-10% IoU"
    assert metric_label("my_metric") == "my metric"
    assert explainer_label("lrp") == "LRP"
    assert explainer_label("ig:steps=20") == "integrated gradients (steps=20)"


def test_zero_is_exactly_white_and_the_ends_are_blue_and_red():
    colours = heatmap_colours()
    assert colours(0.5) == (1.0, 1.0, 1.0, 1.0)
    blue, red = colours(0.25), colours(0.75)
    assert blue[2] > 0.9 > 0.1 > blue[0]
    assert red[0] > 0.9 > 0.1 > red[2]
    assert colours(0.4)[:3] == pytest.approx(colours(0.6)[2::-1], abs=0.01)


def test_widths():
    assert figure_width("single") == 3.35
    assert figure_width("double") == 6.9
    assert figure_width(5) == 5.0
    assert figure_width("4.5") == 4.5
    with pytest.raises(UnknownNameError, match="unknown figure width 'duoble': did you mean 'double'"):
        figure_width("duoble")
    with pytest.raises(ConfigError, match=r"0\.2 in is out of range: give 1 to 20 inches"):
        figure_width(0.2)


def test_settings_are_restored_also_after_an_exception():
    before = dict(matplotlib.rcParams)
    with paper_style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    with pytest.raises(ZeroDivisionError), paper_style():
        1 / 0  # noqa: B018
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["猫", "עברית", "🐟", "cost $5 and $6", r"$\frac{$", r"\alpha_1^", "%s {0}"])
def test_a_name_in_any_script_is_drawn_and_saved_as_it_stands(name, tmp_path):
    with paper_style():
        figure = new_figure(2, 1)
        figure.text(0.1, 0.5, name)
    *_, svg = save_figure(figure, tmp_path / "figure", ("pdf", "png", "svg"))  # warnings are errors here
    assert f">{name}<" in svg.read_text(encoding="utf-8")


def test_the_same_figure_gives_the_same_bytes_and_no_date(tmp_path):
    formats = ("pdf", "png", "svg")
    first = save_figure(drawing(), tmp_path / "a.b" / "one", formats)
    again = save_figure(drawing(), tmp_path / "two", formats)
    assert [path.name for path in first] == ["one.pdf", "one.png", "one.svg"]
    for old, new in zip(first, again):
        assert old.read_bytes() == new.read_bytes()
        assert not re.search(rb"(CreationDate|ModDate|dc:date|20\d\d-\d\d-\d\d)", old.read_bytes())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b", "two.pdf", "two.png", "two.svg"]


def test_text_stays_text(tmp_path):
    pdf, svg = save_figure(drawing(), tmp_path / "figure", ("pdf", "svg"))
    assert b"/Subtype /Type3" not in pdf.read_bytes()
    assert b"TrueType" in pdf.read_bytes() or b"CIDFontType2" in pdf.read_bytes()
    assert "likeness of café</text>" in svg.read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "formats"), [("fig.pdf", None), ("fig.PDF", None), ("fig.pdf", ("pdf",))])
def test_a_known_suffix_of_the_path_decides_the_format(tmp_path, path, formats):
    assert save_figure(drawing(), tmp_path / path, formats) == [tmp_path / "fig.pdf"]
    assert [file.name for file in tmp_path.iterdir()] == ["fig.pdf"]


def test_a_suffix_that_contradicts_the_formats_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"fig\.pdf is a pdf file, but the formats are png, svg: leave one out"):
        save_figure(drawing(), tmp_path / "fig.pdf", ("png", "svg"))
    with pytest.raises(UnknownNameError, match="unknown figure format 'eps'"):
        save_figure(drawing(), tmp_path / "fig.eps")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("font", "embedded"), [("sans", b"DejaVuSans"), ("serif", b"STIXGeneral"), ("latex", b"ComputerModern")]
)
def test_a_figure_keeps_the_font_that_it_was_made_in(tmp_path, font, embedded):
    with paper_style(font):
        figure = drawing()
    pdf, svg = save_figure(figure, tmp_path / "figure", ("pdf", "svg"))
    assert b"+" + embedded in pdf.read_bytes()
    assert b"/Subtype /Type3" not in pdf.read_bytes()
    assert FONTS[font][0] in svg.read_text()


def test_fonts_have_true_minus_signs_and_an_unknown_one_is_refused():
    for font in FONTS:
        family = families(font)
        with paper_style(font):
            assert list(family) == matplotlib.rcParams["font.family"]
        for sign in "\N{MINUS SIGN}±×–|":
            assert _readable(sign, FontProperties(family=list(family)))[0] == sign
    with pytest.raises(UnknownNameError, match="unknown font 'serfi': did you mean 'serif'"), paper_style("serfi"):
        pass


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown figure format 'pgn': did you mean 'png'"):
        save_figure(drawing(), tmp_path / "figure", ("pdf", "pgn"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*choose another folder"):
        save_figure(drawing(), tmp_path / "file" / "figure")


def test_pyplot_is_never_used():
    # In a fresh interpreter, as other tests may have imported it.
    import subprocess

    code = (
        "import sys, xaibench.figures.gallery, xaibench.figures.similarity, xaibench.figures.history;"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("options", [{"format": "png"}, {"format": "pdf"}, {"format": "svg"}, {"bbox_inches": "tight"}])
def test_a_figure_saves_itself_in_any_script_too(options):
    with paper_style():
        figure = new_figure(2, 1)
        figure.text(0.1, 0.5, "猫")
    figure.canvas.draw()  # as a notebook does; warnings are errors here
    figure.savefig(io.BytesIO(), **options)


def test_embedded_fonts_hold_glyphs_and_no_tables_of_layout(tmp_path):
    known = list(subset.Options._drop_tables_default)
    (path,) = save_figure(drawing(), tmp_path / "fonts", ["pdf"])
    assert subset.Options._drop_tables_default == known
    fonts = []
    for part in path.read_bytes().split(b"stream\n")[1:]:
        with suppress(zlib.error, TTLibError):
            fonts.append(TTFont(io.BytesIO(zlib.decompress(part.split(b"\nendstream")[0]))))
    assert fonts
    for font in fonts:
        assert not {"GSUB", "GPOS", "GDEF"} & set(font.keys())
        assert all(font["glyf"][name] is not None for name in font.getGlyphOrder())
    assert max(len(font.getGlyphOrder()) for font in fonts) > len(set("likeness of café"))
    with pytest.raises(ZeroDivisionError), embedded_lightly():
        1 / 0  # noqa: B018
    assert subset.Options._drop_tables_default == known

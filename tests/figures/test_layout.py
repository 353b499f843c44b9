"""Where things stand: texts that fit, legends in columns."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.figures.fonts import text_width
from xaibench.figures.layout import fitting, legend_columns, panels_across, wrapped
from xaibench.figures.style import paper_style

TEXTS = st.text("ab =,_-:m", min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.floats(0.2, 3))
def test_wrapped_text_keeps_its_letters_and_a_fitted_one_its_room(text: str, inches: float) -> None:
    with paper_style():
        lines = wrapped(text, 6, inches)
        assert lines.replace("\n", "").replace(" ", "") == text.replace(" ", "")
        size = fitting(lines, 6, inches)
        assert size <= 6
        assert text_width(lines, size) <= inches + 1e-9
        for line in lines.split("\n"):
            assert text_width(line, 6) <= inches or not any(sign in line[:-1] for sign in " ,=_-:")


def test_lines_break_at_spaces_first() -> None:
    with paper_style():
        assert wrapped("rather than T-shirt/top", 6, 0.6) == "rather than\nT-shirt/top"
        assert wrapped("(temperature=2,refresh=3)", 6, 0.6) == "(temperature=\n2,refresh=3)"


@given(st.integers(1, 30), st.floats(0.3, 8), st.floats(0.3, 2))
def test_panels_fill_lines_of_like_length(count: int, room: float, least: float) -> None:
    across = panels_across(count, room, 0.1, least)
    down = -(-count // across)
    assert 1 <= across <= count
    assert across == 1 or across * (least + 0.1) - 0.1 <= room + 1e-6
    assert (down - 1) * across < count


def test_a_legend_takes_as_many_columns_as_fit() -> None:
    with paper_style():
        assert legend_columns(["a", "b", "c"], 6.9) == 3
        assert legend_columns(["a" * 60, "b", "c"], 3.35) == 1
        assert legend_columns(["a" * 30, "b" * 30, "c", "d"], 2.6) == 2

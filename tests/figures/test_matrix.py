import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.matrix import _contrast, score_matrix

COLUMNS = ["method", "explainer", "metric", "mean", "chance", "lift_low"]


def _summary():
    rows = [
        (method, explainer, metric, value + (0.3 if method == "subdistill" else 0), 0.5, value - 0.35)
        for method in ("student-only", "kd", "subdistill")
        for explainer in ("lrp", "ig:steps=20", "shapley")
        for metric, value in (("cosine", 0.5), ("sign_agreement", 0.3), ("ssim", 0.6))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _cells(figure):
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def test_every_score_stands_in_its_cell():
    figure = score_matrix(_summary())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["LRP", "integrated gradients (steps=20)", "Shapley sampling"]
    assert _cells(figure)[0] == [".50", ".50", ".80", ".30", ".30", ".60", ".60", ".60", ".90"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cosine", "sign agreement", "SSIM"]


def test_colour_is_white_at_chance_red_above_and_blue_below():
    colours = [patch.get_facecolor() for patch in score_matrix(_summary()).axes[0].patches if patch.get_fill()]
    chance, below, above = colours[0], colours[3], colours[8]
    assert chance[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert below[2] > below[0]
    assert above[0] > above[2]


def test_a_frame_marks_scores_above_the_independent_student():
    frames = [patch.get_xy() for patch in score_matrix(_summary()).axes[0].patches if not patch.get_fill()]
    assert [(int(x), int(y)) for x, y in frames] == [(c, r) for r in (0, 2) for c in range(3)]
    plain = score_matrix(_summary().drop(columns="lift_low"))
    assert not [patch for patch in plain.axes[0].patches if not patch.get_fill()]


def test_undefined_and_missing_scores_are_dashes():
    summary = _summary()
    summary.loc[0, "mean"] = np.nan
    texts = _cells(score_matrix(summary.drop(index=len(summary) - 1)))
    assert texts[0][0] == "–"
    assert texts[2][8] == "–"


def test_the_zero_point_is_that_of_shifted_maps_where_there_are_any():
    summary = _summary().assign(shifted=0.8, n=10, nan=0)
    figure = score_matrix(summary)
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches if patch.get_fill()]
    assert colours[2][:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert colours[0][2] > colours[0][0]
    assert "white is what shifted maps score, blue below it" in figure.texts[-1].get_text().replace("\n", " ")
    summary.loc[0, "shifted"] = np.nan
    figure = score_matrix(summary)
    assert figure.axes[0].patches[0].get_facecolor()[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert "shifted maps (random maps where those are undefined)" in figure.texts[-1].get_text().replace("\n", " ")
    assert "white is what random maps score" in score_matrix(_summary()).texts[-1].get_text()


def test_a_star_marks_scores_of_which_more_than_a_third_is_undefined():
    summary = _summary().assign(n=20, nan=10)
    assert not any("*" in text for cells in _cells(score_matrix(summary)) for text in cells)
    summary.loc[0, "nan"] = 11
    figure = score_matrix(summary)
    assert [text for cells in _cells(figure) for text in cells if "*" in text] == [".50*"]
    assert "*: more than a third of the scores is undefined" in figure.texts[-1].get_text().replace("\n", " ")


def test_every_score_can_be_read_on_its_colour():
    rows = [("kd", f"e{i}", "cosine", value, 0.0) for i, value in enumerate(np.linspace(-0.99, 0.99, 34))]
    for axes in score_matrix(pd.DataFrame(rows, columns=COLUMNS[:5])).axes:
        ground, ink = axes.patches[0].get_facecolor(), axes.texts[0].get_color()
        assert _contrast(ink, ground) >= 3.9
    assert _contrast("white", to_rgba("black")) == pytest.approx(21)


@pytest.mark.parametrize("width", ["single", "double"])
def test_the_note_stays_within_the_figure_and_narrow_blocks_move_to_a_second_row(width):
    summary = _summary().assign(shifted=0.1, n=1, nan=2)
    methods = pd.concat([summary.assign(method=summary["method"] + f":T={i}") for i in range(5)])
    figure = score_matrix(methods, width=width)
    assert_well_drawn(figure)
    assert len({axes.get_position().y0 for axes in figure.axes}) > 1
    assert min(text.get_fontsize() for axes in figure.axes for text in axes.texts) > 5.5 or width == "single"


def test_bad_tables_are_refused():
    with pytest.raises(DataError, match="lacks the columns chance"):
        score_matrix(_summary().drop(columns="chance"))
    with pytest.raises(DataError, match="no rows"):
        score_matrix(_summary().iloc[:0])
    with pytest.raises(DataError, match="aggregate over seeds"):
        score_matrix(pd.concat([_summary(), _summary()]))

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import DataError
from xaibench.figures.matrix import score_matrix

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


def test_bad_tables_are_refused():
    with pytest.raises(DataError, match="lacks the columns chance"):
        score_matrix(_summary().drop(columns="chance"))
    with pytest.raises(DataError, match="no rows"):
        score_matrix(_summary().iloc[:0])
    with pytest.raises(DataError, match="aggregate over seeds"):
        score_matrix(pd.concat([_summary(), _summary()]))

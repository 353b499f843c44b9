import numpy as np
import pandas as pd
import pytest

from xaibench.errors import DataError
from xaibench.figures.differences import difference_figure
from xaibench.figures.likeness import likeness_figure

STUDENTS = pd.DataFrame({"method": ["kd", "kd", "at", "at", "vid"], "accuracy": [0.5, 0.7, 0.3, 0.3, 0.8]}).assign(
    **{"lrp cosine": [0.2, 0.4, 0.1, np.nan, 0.9]}
)
DIFFERENCES = pd.DataFrame(
    {
        "a": "kd",
        "b": ["at", "vid"],
        "quantity": "accuracy",
        "difference": [0.2, np.nan],
        "low": [0.1, np.nan],
        "high": [0.3, np.nan],
        "unit": "seeds",
        "significant": [True, False],
    }
)


def test_a_point_a_student_and_one_for_the_mean_of_its_method():
    (axes,) = likeness_figure(STUDENTS).axes
    points = [np.array(line.get_data()).T for line in axes.lines]
    small, large = points[0], points[1]
    assert small.tolist() == [[0.5, 0.2], [0.7, 0.4]]
    assert large[0] == pytest.approx([0.6, 0.3])
    assert sum(len(one) for one in points) == 4 + 3  # the undefined student is left out
    assert axes.get_title().endswith("rho = 1.00")
    assert "rho: rank correlation" in axes.figure.texts[-1].get_text()
    of_two = likeness_figure(STUDENTS[STUDENTS["method"] != "vid"])
    assert "rho" not in of_two.axes[0].get_title() + of_two.texts[-1].get_text()


def test_significant_differences_are_filled_and_undefined_ones_left_out():
    (axes,) = difference_figure(DIFFERENCES).axes
    (point,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert point.get_markerfacecolor() != "white"
    (bar,) = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and len(line.get_xdata()) == 2]
    assert list(bar.get_xdata()) == [0.1, 0.3]
    (open_point,) = [
        line
        for line in difference_figure(DIFFERENCES.assign(significant=False)).axes[0].lines
        if line.get_marker() == "o"
    ]
    assert open_point.get_markerfacecolor() == "white"


@pytest.mark.parametrize(
    ("draw", "table", "says"),
    [
        (likeness_figure, STUDENTS.drop(columns="accuracy"), "lacks accuracy"),
        (likeness_figure, STUDENTS.drop(columns="lrp cosine"), "EXPLAINER cosine"),
        (likeness_figure, STUDENTS.iloc[:0], "lacks rows"),
        (difference_figure, DIFFERENCES.drop(columns=["a", "low"]), "lacks a, low"),
        (difference_figure, DIFFERENCES.iloc[:0], "lacks rows"),
    ],
)
def test_tables_that_cannot_be_drawn_say_what_they_lack(draw, table, says):
    with pytest.raises(DataError, match=says):
        draw(table)

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests.figures.well_drawn import assert_well_drawn, drawn_texts
from xaibench.errors import DataError
from xaibench.figures.league import league_figure


def table(**columns: list[float]) -> pd.DataFrame:
    """Methods "teacher", "a", "b", "c" with these quantities, each 0.1 wide on both sides."""
    data: dict[str, object] = {"method": ["teacher", "a", "b", "c"]}
    for name, values in columns.items():
        name = name.replace("_", " ")
        data |= {name: values, f"{name} low": np.array(values) - 0.1, f"{name} high": np.array(values) + 0.1}
    return pd.DataFrame(data)


NAN = float("nan")
TABLE = table(accuracy=[0.9, 0.5, 0.7, 0.6], lrp_cosine=[NAN, 0.1, 0.2, 0.4], ig_cosine=[NAN, 0.3, NAN, 0.1])


def test_one_panel_a_quantity_and_the_first_score_orders_the_methods() -> None:
    figure = league_figure(TABLE)
    assert [axes.get_title() for axes in figure.axes] == [
        "accuracy",
        "LRP\ncosine",
        "integrated gradients\ncosine",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["c", "b", "a"]
    assert plt.get_fignums() == []


def test_every_defined_mean_stands_on_its_interval_and_the_best_is_filled() -> None:
    for axes, quantity in zip(league_figure(TABLE).axes, ("accuracy", "lrp cosine", "ig cosine")):
        rows = TABLE.set_index("method").loc[["c", "b", "a"]]
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        drawn = {int(line.get_ydata()[0]): float(line.get_xdata()[0]) for line in dots}
        want = {y: value for y, value in enumerate(rows[quantity]) if np.isfinite(value)}
        assert drawn == pytest.approx(want)
        bars = {
            int(line.get_ydata()[0]): list(line.get_xdata()) for line in axes.lines if len(set(line.get_xdata())) == 2
        }
        assert bars == {y: pytest.approx([value - 0.1, value + 0.1]) for y, value in want.items()}
        filled = [float(line.get_xdata()[0]) for line in dots if line.get_markerfacecolor() != "white"]
        assert filled == [pytest.approx(max(want.values()))]


def test_the_teacher_is_a_line_where_it_has_a_value() -> None:
    figure = league_figure(TABLE)
    goals = [[x.get_xdata()[0] for x in axes.lines if list(x.get_ydata()) == [0, 1]] for axes in figure.axes]
    assert goals == [[0.9], [], []]
    (note,) = figure.texts
    assert note.get_text() == "mean with its 95% interval; filled: the highest; dashed: the teacher"
    assert "teacher" not in league_figure(TABLE[1:]).texts[0].get_text()


@pytest.mark.parametrize(
    ("seeds", "whom"), [([3, 3, 3], "other training seeds"), ([3, 1, 3], "this student"), ([1, 1, 1], "this student")]
)
def test_the_note_says_for_whom_intervals_speak(seeds: list[int], whom: str) -> None:
    table = TABLE.assign(seeds=pd.array([pd.NA, *seeds], dtype="Int64"))
    assert league_figure(table).texts[0].get_text().startswith(f"mean with its 95% interval for {whom}; filled")


def wide(explainers: int, methods: int) -> pd.DataFrame:
    """accuracy, agreement, and a cosine and a lift of each explainer, which have long and short names."""
    names = ["lrp", "ig:budget=1025", "input-x-gradient", "smoothgrad", "gradcam", "shapley:patch=8", "occlusion"]
    quantities = ["accuracy", "agreement", *(f"{e} {q}" for e in names[:explainers] for q in ("cosine", "lift"))]
    values = np.random.default_rng(0).uniform(-0.2, 0.9, (methods + 1, len(quantities)))
    data: dict[str, object] = {"method": ["teacher", *(f"icd:base=sd-dkd,warmup={i}" for i in range(methods))]}
    for place, name in enumerate(quantities):
        mean = values[:, place]
        data |= {name: mean, f"{name} low": mean - 0.0234, f"{name} high": mean + 0.01}
    return pd.DataFrame(data)


@pytest.mark.parametrize(
    ("explainers", "methods", "rows", "width"),
    [
        (2, 3, 1, "double"),
        (2, 25, 1, "double"),
        (3, 3, 2, "double"),
        (7, 3, 3, "double"),
        (7, 25, 3, "double"),
        (7, 3, 8, "single"),
    ],
)
def test_panels_stand_in_rows_with_a_few_ticks_each(explainers: int, methods: int, rows: int, width: str) -> None:
    figure = league_figure(wide(explainers, methods), width=width)
    assert_well_drawn(figure)
    assert len({axes.get_position().y0 for axes in figure.axes}) == rows
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert 1 <= sum(low <= tick <= high for tick in axes.get_xticks()) <= 3
    assert min(text.get_fontsize() for text, _ in drawn_texts(figure)) >= 5


def test_without_a_complete_score_the_first_quantity_orders() -> None:
    figure = league_figure(table(accuracy=[0.9, 0.5, 0.7, 0.6], ig_cosine=[NAN, 0.3, NAN, 0.1]))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (TABLE.drop(columns="method"), "lacks a column 'method'"),
        (TABLE[["method", "accuracy"]], "or a quantity with its 'low' and 'high'"),
        (TABLE[:1], "no method besides the teacher"),
    ],
)
def test_what_cannot_be_drawn_is_refused(bad: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        league_figure(bad)


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("centre", [-0.0325, 0.12345, 0.0])
def test_numbers_of_close_values_stand_apart(width: str, centre: float) -> None:
    data = {"method": ["a", "b", "c"]}
    for name in ("accuracy", "agreement", "lrp cosine", "lrp lift", "ig cosine", "ig lift"):
        values = centre + 5e-4 * np.arange(3)
        data |= {name: values, f"{name} low": values - 1e-3, f"{name} high": values + 1e-3}
    figure = league_figure(pd.DataFrame(data), width=width)
    assert_well_drawn(figure)
    assert all(len(axes.get_xticks()) >= 1 for axes in figure.axes)

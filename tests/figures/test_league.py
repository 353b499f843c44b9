from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

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
    assert [axes.get_title() for axes in figure.axes] == ["accuracy", "LRP, cosine", "integrated gradients, cosine"]
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
    first, *others = league_figure(TABLE).axes
    assert [
        line.get_xdata()[0] for line in first.lines if len(line.get_ydata()) == 2 and list(line.get_ydata()) == [0, 1]
    ]
    assert [text.get_text() for text in first.texts] == ["teacher"]
    assert all(not axes.texts for axes in others)


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

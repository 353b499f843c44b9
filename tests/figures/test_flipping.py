from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from xaibench.errors import DataError
from xaibench.figures.flipping import flip_figure

FRACTIONS = np.linspace(0, 1, 5)


def curves(models: tuple[str, ...] = ("teacher", "kd", "subdistill")) -> pd.DataFrame:
    parts = []
    for m, model in enumerate(models):
        for o, order in enumerate(("own", "teacher", "random")):
            if model == "teacher" and order == "teacher":
                continue
            for measure, height in (("difference", 8.0 + m), ("unchanged", 1.0)):
                mean = height * (1 - FRACTIONS) ** (3 - o)
                band = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}
                parts.append(
                    pd.DataFrame({"model": model, "order": order, "measure": measure, "fraction": FRACTIONS, **band})
                )
    return pd.concat(parts, ignore_index=True)


def drawn(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if len(line.get_xdata()) == len(FRACTIONS)]


def test_a_column_a_model_a_row_a_measure_a_line_an_order() -> None:
    table = curves()
    figure = flip_figure(table)
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes] == ["teacher", "KD", "SubDistill", "", "", ""]
    for axes, (measure, model) in zip(
        figure.axes, [(s, m) for s in ("difference", "unchanged") for m in ("teacher", "kd", "subdistill")]
    ):
        rows = table[(table["model"] == model) & (table["measure"] == measure)]
        wanted = [rows[rows["order"] == order]["mean"].to_numpy() for order in dict.fromkeys(rows["order"])]
        assert len(drawn(axes)) == len(wanted) == (2 if model == "teacher" else 3)
        for line, mean in zip(drawn(axes), wanted):
            np.testing.assert_allclose(line.get_xdata(), FRACTIONS)
            np.testing.assert_allclose(line.get_ydata(), mean)
        assert len(axes.collections) == len(wanted)
        low, high = axes.get_ylim()
        assert low <= rows["low"].clip(lower=0 if measure == "unchanged" else None).min()
        assert high >= rows["mean"].max()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "own order",
        "teacher's order",
        "random order",
    ]
    assert plt.get_fignums() == []


def test_all_models_share_an_axis_and_the_orders_differ_without_colour() -> None:
    figure = flip_figure(curves(), measures=("difference",), width=5.0)
    assert len(figure.axes) == 3
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    lines = drawn(figure.axes[-1])
    assert len({line._dash_pattern[1] and tuple(line._dash_pattern[1]) for line in lines}) == 3
    assert figure.get_size_inches()[0] == 5.0


def test_a_measure_that_a_model_lacks_has_no_panel() -> None:
    table = curves()
    table = table[(table["model"] != "teacher") | (table["measure"] == "difference")]
    assert [axes.get_title() for axes in flip_figure(table).axes] == ["teacher", "KD", "SubDistill", "", ""]
    alone = flip_figure(table, measures=("unchanged",))
    assert [axes.get_title() for axes in alone.axes] == ["KD", "SubDistill"]
    assert [bool(axes.get_ylabel()) for axes in alone.axes] == [True, False]


def test_the_shading_and_the_number_of_images_are_named() -> None:
    table = curves()
    assert flip_figure(table).texts[-1].get_text() == "shaded: 95% interval of the mean"
    table["n"] = np.where(table["model"] == "teacher", 60, 180)
    want = "shaded: 95% interval of the mean over 60 images for the teacher and 180 images × seeds for the students"
    figure = flip_figure(table)
    assert figure.texts[-1].get_text() == want
    table["n"] = 1
    assert flip_figure(table).texts[-1].get_text() == "one image: no interval"


def test_labels_at_the_corner_of_a_column_that_ends_early_are_apart() -> None:
    table = curves()
    more = table[(table["model"] != "teacher") & (table["measure"] == "unchanged")].assign(measure="with teacher")
    figure = flip_figure(pd.concat([table, more]))
    figure.canvas.draw()
    teacher, agreement = figure.axes[3], figure.axes[6]
    (last,) = (label for label in teacher.get_xticklabels() if label.get_text() == "100%")
    (first,) = (label for label in agreement.get_yticklabels() if label.get_text() == "100%")
    assert last.get_window_extent().y0 > first.get_window_extent().y1 + 3


def test_an_undefined_curve_is_left_out() -> None:
    table = curves()
    table.loc[(table["model"] == "kd") & (table["order"] == "own"), ["mean", "low", "high"]] = np.nan
    figure = flip_figure(table)
    assert [len(drawn(axes)) for axes in figure.axes] == [2, 2, 3, 2, 2, 3]


@pytest.mark.parametrize(
    ("table", "measures", "message"),
    [
        (curves().drop(columns=["low", "order"]), None, "lack the columns order, low"),
        (curves()[:0], None, "there are no curves to draw"),
        (curves(), ("probability",), "hold difference, unchanged, not 'probability'"),
        (curves(), (), "hold difference, unchanged, not ''"),
    ],
)
def test_what_cannot_be_drawn_is_refused(table: pd.DataFrame, measures: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        flip_figure(table, measures=measures)


def test_models_that_do_not_fit_side_by_side_stand_in_bands() -> None:
    figure = flip_figure(curves(tuple("abcde")), measures=("unchanged",), width="single")
    places = {axes.get_title(): axes.get_position() for axes in figure.axes}
    assert list(places) == list("abcde")
    assert places["c"].y0 == places["a"].y0 > places["d"].y1
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, False, True, False]

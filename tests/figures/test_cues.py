from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.figures.cues import QUANTITIES, cues_figure
from xaibench.figures.style import MUTED, method_styles

LEVELS = (0.0, 0.5, 1.0)
METHODS = ("kd", "subdistill")


def row(level: float, method: str, explainer: str, quantity: str, mean: float, chance: float) -> dict[str, object]:
    about = {"contamination": level, "method": method, "explainer": explainer, "quantity": quantity}
    return about | {"mean": mean, "low": mean - 0.05, "high": mean + 0.03, "chance": chance}


@pytest.fixture
def table() -> pd.DataFrame:
    """Three levels, two methods, two explainers; each mean is its own."""
    kinds = [(e, q) for e in ("lrp", "ig") for q in ("mass", "net_mass", "pointing")]
    kinds += [("-", q) for q in ("marked_accuracy", "accuracy", "attack_success")]
    rows = []
    for i, (explainer, quantity) in enumerate(kinds):
        chance = {"-": math.nan}.get(explainer, 0.03)
        rows.append(row(math.nan, "teacher", explainer, quantity, 0.1 + 0.05 * i, chance))
        for j, level in enumerate(LEVELS):
            for k, method in enumerate(METHODS):
                own = 0.01 * (1 + j + 3 * k) if quantity == "attack_success" else chance
                rows.append(row(level, method, explainer, quantity, 0.2 + 0.05 * i + 0.1 * j + 0.03 * k, own))
    return pd.DataFrame(rows)


def of(axes: Axes, colour: str, marked: bool) -> list[np.ndarray]:
    return [
        np.asarray(line.get_ydata(), dtype=float)
        for line in axes.lines
        if line.get_color() == colour and (line.get_marker() not in ("", "None", None)) is marked
    ]


def test_a_panel_a_quantity_and_for_explanations_one_an_explainer(table: pd.DataFrame) -> None:
    figure = cues_figure(table)
    assert [axes.get_title().replace("\n", " ") for axes in figure.axes] == [
        "LRP: positive relevance on the mark",
        "integrated gradients: positive relevance on the mark",
        "LRP: net relevance on the mark",
        "integrated gradients: net relevance on the mark",
        QUANTITIES["attack_success"],
        QUANTITIES["marked_accuracy"],
        QUANTITIES["accuracy"],
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "KD",
        "SubDistill",
        "teacher",
        "chance, no mark",
    ]
    assert plt.get_fignums() == []


def test_lines_go_through_the_means_and_bars_are_their_intervals(table: pd.DataFrame) -> None:
    figure = cues_figure(table.sample(frac=1, random_state=0), quantities=["pointing"])
    styles = method_styles(METHODS)
    for explainer in ("lrp", "ig"):
        axes = next(a for a in figure.axes if a.get_title().startswith({"lrp": "LRP", "ig": "integ"}[explainer]))
        rows = table[(table["quantity"] == "pointing") & (table["explainer"] == explainer)]
        bars = [collection for collection in axes.collections if collection.get_segments()]
        for method in METHODS:
            want = rows[rows["method"] == method].sort_values("contamination")
            (drawn,) = of(axes, styles[method].colour, marked=True)
            np.testing.assert_allclose(drawn, want["mean"])
            ends = [np.array(b.get_segments())[:, :, 1] for b in bars]
            assert any(np.allclose(e, want[["low", "high"]]) for e in ends)
        teacher = rows[rows["method"] == "teacher"]["mean"].item()
        flat = [list(y) for y in of(axes, MUTED, marked=False)]
        assert [teacher, teacher] in flat
        assert [0.03, 0.03] in flat


def test_chance_that_differs_between_students_is_drawn_for_each(table: pd.DataFrame) -> None:
    figure = cues_figure(table, quantities=["attack_success"])
    (axes,) = figure.axes
    for method, style in method_styles(METHODS).items():
        want = table[(table["quantity"] == "attack_success") & (table["method"] == method)]["chance"]
        (dotted,) = of(axes, style.colour, marked=False)
        np.testing.assert_allclose(dotted, want)


def test_points_of_methods_stand_beside_each_other_near_their_level(table: pd.DataFrame) -> None:
    (axes,) = cues_figure(table, quantities=["accuracy"]).axes
    places = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_marker() not in ("", "None", None)]
    assert len(places) == 2
    assert (places[0] != places[1]).all()
    for x in places:
        np.testing.assert_allclose(x, LEVELS, atol=0.03)
    assert list(axes.get_xticks()) == list(LEVELS)


def test_many_panels_fit_a_narrow_figure(table: pd.DataFrame) -> None:
    assert_well_drawn(cues_figure(table, width=3.0))


def test_one_level_one_method_and_undefined_means_can_be_drawn(table: pd.DataFrame) -> None:
    one = table[table["contamination"].isna() | (table["contamination"] == 1)]
    one = one[one["method"].isin(["teacher", "kd"])].assign(low=np.nan, high=np.nan)
    one.loc[one["quantity"] == "mass", "mean"] = np.nan
    cues_figure(one).canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["low", "chance"]), "lacks the columns low, chance: pass the table of a cue study"),
        (lambda t: t[t["method"] == "teacher"], "no method besides the teacher"),
        (lambda t: t[t["quantity"] == "pointing"], "holds none of mass, net_mass"),
    ],
)
def test_what_cannot_be_drawn_is_refused(table: pd.DataFrame, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        cues_figure(change(table))


def test_unknown_quantities_and_widths_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(UnknownNameError, match="unknown quantity 'mas': did you mean 'mass'"):
        cues_figure(table, quantities=["mas"])
    with pytest.raises(ConfigError, match="out of range"):
        cues_figure(table, width=40.0)

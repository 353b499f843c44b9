"""What students cost and what they are worth; spectra; accuracy in few directions: every number is where it belongs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import DataError
from xaibench.figures.dimension import dimension_figure
from xaibench.figures.spectra import spectra_figure
from xaibench.figures.students import students_figure

NAN = float("nan")


def test_a_point_a_method_in_each_panel_near_its_cost() -> None:
    table = pd.DataFrame(
        {"method": ["teacher", "kd", "at"], "parameters": [1e6, 1e4, 1e4], "macs": [1e8, 2e6, 2e6]}
    ).assign(accuracy=[0.9, 0.5, 0.6], agreement=[NAN, 0.55, 0.65])
    for name in ("accuracy", "agreement"):
        table[f"{name} low"], table[f"{name} high"] = table[name] - 0.1, table[name] + 0.1
    figure = students_figure(table, names={"at": "attention"})
    for axes, (worth, cost) in zip(
        figure.axes, [(w, c) for w in ("accuracy", "agreement") for c in ("parameters", "macs")], strict=True
    ):
        drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]
        want = table.dropna(subset=worth)[[cost, worth]].to_numpy()
        np.testing.assert_allclose([y for _, y in drawn], want[:, 1])
        np.testing.assert_allclose([x for x, _ in drawn], want[:, 0], rtol=0.07)
        assert len({x for x, _ in drawn}) == len(drawn)
        low, high = axes.get_ylim()
        assert low < table[f"{worth} low"].min()
        assert high > table[f"{worth} high"].max()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["KD", "attention", "teacher"]
    with pytest.raises(DataError, match="the table lacks macs, agreement high"):
        students_figure(table.drop(columns=["macs", "agreement high"]))


def test_spectra_are_shares_of_the_variance_and_the_width_names_what_it_holds() -> None:
    figure = spectra_figure({"a:a": [6.0, 3.0, 1.0], "b:c": [2.0, 2.0]}, widths={"a:a": 2}, names={"a": "first"})
    single, together, *_ = figure.axes
    assert single.get_title() == "first"
    assert figure.axes[2].get_title() == "b:c"
    np.testing.assert_allclose(single.lines[0].get_ydata(), [0.6, 0.3, 0.1])
    np.testing.assert_allclose(together.lines[0].get_ydata(), [0.6, 0.9, 1])
    assert [text.get_text() for text in together.texts] == ["k = 2: 90%"]
    assert [list(axes.lines[1].get_xdata()) for axes in (single, together)] == [[2, 2]] * 2
    assert not figure.axes[3].texts
    for bad in ([], [0.0], [NAN, 1]):
        with pytest.raises(DataError, match="the spectrum of 'x' must be finite eigenvalues"):
            spectra_figure({"x": bad})
    with pytest.raises(DataError, match="no spectra to draw"):
        spectra_figure({})


def test_accuracy_is_drawn_against_the_dimension_a_line_a_basis() -> None:
    rows = [{"layer": "a:a", "basis": "none", "k": 4, "accuracy": 0.9}]
    rows += [
        {"layer": "a:a", "basis": b, "k": k, "accuracy": 0.9 - s / k}
        for b, s in (("pca", 0.5), ("x", 0.6))
        for k in (4, 1, 2)
    ]
    table = pd.DataFrame(rows).assign(width=2, chance=0.25, low=lambda t: t["accuracy"] - 0.1, high=0.95)
    (axes,) = dimension_figure(table, names={"x": "mine"}).axes
    for line, share in zip(axes.lines[:2], (0.5, 0.6)):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4])
        np.testing.assert_allclose(line.get_ydata(), [0.9 - share, 0.9 - share / 2, 0.9 - share / 4])
    assert [line.get_ydata()[0] for line in axes.lines[2:4]] == [0.9, 0.25]
    assert axes.lines[4].get_xdata()[0] == 2
    legend = dimension_figure(table, names={"x": "mine"}).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["PCA", "mine", "all directions", "chance"]
    with pytest.raises(DataError, match="the table lacks basis, chance"):
        dimension_figure(table.drop(columns=["basis", "chance"]))

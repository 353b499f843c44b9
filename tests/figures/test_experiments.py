"""The pictures of experiments: each line is where its numbers are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.bases import basis_styles
from xaibench.figures.convergence import convergence_figure
from xaibench.figures.xor import xor_figure

LAYERS = ("layer2:layer2", "layer3:layer3", "features.4:blocks.1.2", "layer4:layer4")
METHODS = ("subdistill:mapping=rotation", "subdistill:mapping=linear", "kd")


def with_ends(rows: list[dict[str, object]], mean: list[float]) -> pd.DataFrame:
    table = pd.DataFrame(rows).assign(mean=mean, seeds=5)
    return table.assign(low=table["mean"] - 0.03, high=table["mean"] + 0.02)


@pytest.fixture
def of_xor() -> pd.DataFrame:
    rows = [{"measure": "teacher", "method": "none", "k": 128}]
    for measure in ("projected", "other subtasks"):
        rows += [
            {"measure": measure, "method": b, "k": k} for b in ("prcaposdef", "pca", "random") for k in (1, 8, 128)
        ]
    names = ("prcaposdef", "pca", "random", "full", "kd", "student-only")
    rows += [{"measure": "student", "method": name, "k": k} for name in names for k in (2, 1, 4)]
    return with_ends(rows, np.random.default_rng(0).uniform(0.5, 0.95, len(rows)).tolist())


@pytest.fixture
def of_convergence() -> pd.DataFrame:
    rows = [
        {"layer": layer, "method": method, "map": which, "basis": basis, "epoch": epoch, "chance": 0.1 + 0.1 * i}
        for i, layer in enumerate(LAYERS)
        for method in METHODS
        for which in (("fitted",) if method == "kd" else ("fitted", "learned"))
        for basis in ("pca", "pca_reversed", "random")
        for epoch in (2, 0, 1)
    ]
    return with_ends(rows, np.random.default_rng(1).uniform(0.1, 0.9, len(rows)).tolist())


@pytest.mark.parametrize("width", ["single", "double"])
def test_both_can_be_read_in_both_columns(of_xor: pd.DataFrame, of_convergence: pd.DataFrame, width: str) -> None:
    assert_well_drawn(xor_figure(of_xor, best=0.955, width=width))
    assert_well_drawn(convergence_figure(of_convergence, width=width))


def test_xor_has_a_panel_a_measure_and_a_line_a_method(of_xor: pd.DataFrame) -> None:
    figure = xor_figure(of_xor, best=0.955, names={"pca": "variance"})
    assert [axes.get_xlabel() for axes in figure.axes] == ["directions k", "directions k", "channels k"]
    for axes, measure in zip(figure.axes, ("projected", "other subtasks", "student")):
        own = of_xor[of_xor["measure"] == measure]
        for method, style in basis_styles(["prcaposdef", "pca", "random"]).items():
            want = own[own["method"] == method].sort_values("k")
            (line,) = [line for line in axes.lines if line.get_marker() == style.marker]
            np.testing.assert_array_equal(line.get_xdata(), want["k"])
            np.testing.assert_allclose(line.get_ydata(), want["mean"])
        flat = [line.get_ydata()[0] for line in axes.lines if line.get_marker() in ("", "None")]
        assert flat[-2:] == [0.955, 0.5]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[1:2] + labels[3:] == ["variance", "all directions", "KD", "Student only", "best possible", "chance"]


def test_convergence_has_a_row_a_method_and_a_column_a_layer(of_convergence: pd.DataFrame) -> None:
    figure = convergence_figure(of_convergence, names={"kd": "Hinton"})
    assert len(figure.axes) == len(LAYERS) * len(METHODS)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["layer2", "layer3"]
    assert figure.axes[8].get_ylabel() == "Hinton"
    styles = basis_styles(["pca", "pca_reversed", "random"])
    for place, axes in enumerate(figure.axes):
        method, layer = METHODS[place // 4], LAYERS[place % 4]
        own = of_convergence[(of_convergence["method"] == method) & (of_convergence["layer"] == layer)]
        for (basis, which), part in own.groupby(["basis", "map"]):
            want = part.sort_values("epoch")
            lines = [line for line in axes.lines[:-1] if line.get_color() == styles[basis].colour]
            (line,) = [one for one in lines if np.allclose(one.get_ydata(), want["mean"])]
            np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
            assert (line.get_linestyle() == "--") is (which == "fitted")
        assert axes.lines[-1].get_ydata()[0] == own["chance"].iloc[0]


def test_other_tables_are_refused(of_xor: pd.DataFrame, of_convergence: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="the table lacks low, seeds: pass that of the experiment xor"):
        xor_figure(of_xor.drop(columns=["low", "seeds"]))
    with pytest.raises(DataError, match="the table lacks rows: pass that of the experiment xor"):
        xor_figure(of_xor[of_xor["measure"] == "teacher"])
    with pytest.raises(DataError, match="the table lacks chance: pass that of the experiment convergence"):
        convergence_figure(of_convergence.drop(columns="chance"))
    with pytest.raises(DataError, match="the table lacks rows"):
        convergence_figure(of_convergence[:0])

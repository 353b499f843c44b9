from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from xaibench.errors import DataError
from xaibench.figures.pooling import pooling_figure
from xaibench.figures.style import method_styles


def curve(level: float) -> pd.DataFrame:
    grids = [4, 7, 14, 28]
    mean = level - 0.1 * np.arange(4)
    null = {"chance": 0.1, "chance_sd": 0.2 / np.sqrt(grids), "mismatched": 0.15}
    return pd.DataFrame({"grid": grids, "mean": mean, "low": mean - 0.02, "high": mean + 0.03, "n": 25, **null})


@pytest.fixture
def curves() -> dict[str, pd.DataFrame]:
    return {"subdistill": curve(0.8), "kd": curve(0.6).iloc[::-1]}


def line(axes: Axes, colour: str, style: str) -> tuple[list[float], list[float]]:
    (found,) = [x for x in axes.lines if x.get_color() == colour and x.get_linestyle() == style]
    return list(found.get_xdata()), list(found.get_ydata())


def test_each_method_has_its_means_intervals_and_null(curves: dict[str, pd.DataFrame]) -> None:
    (axes,) = pooling_figure(curves, "topk_iou").axes
    assert axes.get_ylabel() == "top-10% IoU"
    assert plt.get_fignums() == []
    for method, style in method_styles(curves).items():
        rows = curves[method].sort_values("grid")
        assert line(axes, style.colour, "-") == (list(rows["grid"]), list(rows["mean"]))
        assert line(axes, style.colour, ":") == (list(rows["grid"]), list(rows["mismatched"]))
    bars = [[tuple(end) for end in bar] for group in axes.collections[1:] for bar in group.get_segments()]
    wanted = [[(r.grid, r.low), (r.grid, r.high)] for c in curves.values() for r in c.sort_values("grid").itertuples()]
    np.testing.assert_allclose(bars, wanted)


def test_chance_is_a_line_with_the_band_of_the_mean_of_fewest_images(curves: dict[str, pd.DataFrame]) -> None:
    curves["kd"]["n"] = 16
    (axes,) = pooling_figure(curves, "cosine").axes
    dashed = [x for x in axes.lines if x.get_linestyle() == "--"]
    assert [list(x.get_ydata()) for x in dashed] == [[0.1] * 4]
    corners = {tuple(np.round(v, 9)) for v in axes.collections[0].get_paths()[0].vertices}
    for row in curves["subdistill"].itertuples():
        for side in (-1, 1):
            assert (row.grid, round(0.1 + side * 2 * row.chance_sd / 4, 9)) in corners


def test_grids_are_named_and_the_legend_stands_above_the_axes(curves: dict[str, pd.DataFrame]) -> None:
    figure = pooling_figure(curves, "cosine", width="double")
    figure.canvas.draw()
    (axes,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4×4", "7×7", "14×14", "28×28"]
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["subdistill", "kd", "mismatched images", "random maps ± 2 SD"]
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    assert figure.get_size_inches()[0] == 6.9


def test_undefined_values_are_left_out(curves: dict[str, pd.DataFrame]) -> None:
    undefined = curve(0.6)
    undefined.loc[0, ["mean", "low", "high", "chance", "chance_sd", "mismatched"]] = np.nan
    undefined.loc[0, "n"] = 0
    (axes,) = pooling_figure({"kd": undefined}, "cosine").axes
    colour = method_styles(["kd"])["kd"].colour
    assert line(axes, colour, "-")[0] == [7, 14, 28]
    assert line(axes, colour, ":")[0] == [7, 14, 28]


def test_what_cannot_be_drawn_is_refused(curves: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(DataError, match="no curves to draw: compute at least one"):
        pooling_figure({}, "cosine")
    with pytest.raises(DataError, match="the curve of 'kd' lacks the columns low, n: pass what pooling_curve returns"):
        pooling_figure({"kd": curve(0.5).drop(columns=["low", "n"])}, "cosine")
    with pytest.raises(DataError, match="the curve of 'kd' has no rows"):
        pooling_figure({"kd": curve(0.5)[:0]}, "cosine")

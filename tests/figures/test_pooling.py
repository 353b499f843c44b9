from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from tests.figures.well_drawn import assert_well_drawn
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
        for dashes, column in (("-", "mean"), (":", "mismatched")):
            x, y = line(axes, style.colour, dashes)
            np.testing.assert_allclose(x, rows["grid"], rtol=0.05)
            assert y == list(rows[column])
    bars = [[tuple(end) for end in bar] for group in axes.collections[1:] for bar in group.get_segments()]
    wanted = [[r.low, r.high] for c in curves.values() for r in c.sort_values("grid").itertuples()]
    np.testing.assert_allclose([[low, high] for (_, low), (_, high) in bars], wanted)


def test_intervals_of_methods_on_one_grid_stand_beside_each_other() -> None:
    many = {f"m{i}": curve(0.5) for i in range(6)}
    figure = pooling_figure(many, "cosine")
    (axes,) = figure.axes
    x = np.sort([bar[0][0] for group in axes.collections[1:] for bar in group.get_segments()])
    assert len(np.unique(x)) == 6 * 4
    pixels = axes.transData.transform(np.column_stack([x, np.full(len(x), 0.2)]))[:, 0]
    assert np.diff(pixels).min() > 1.1 * figure.dpi / 72  # wider apart than a bar is thick
    assert axes.get_xlim()[0] < x.min()
    assert axes.get_xlim()[1] > x.max()


def test_shifted_maps_are_drawn_where_the_curves_have_them(curves: dict[str, pd.DataFrame]) -> None:
    shifted = {name: c.assign(shifted=0.21) for name, c in curves.items()}
    figure = pooling_figure(shifted, "cosine")
    assert "shifted maps" in [text.get_text() for text in figure.legends[0].get_texts()]
    crosses = [x for x in figure.axes[0].lines if x.get_marker() == "x"]
    assert [list(x.get_ydata()) for x in crosses] == [[0.21] * 4] * 2


def test_the_band_counts_images_not_seeds(curves: dict[str, pd.DataFrame]) -> None:
    (axes,) = pooling_figure({"kd": curve(0.5).assign(n=75, seeds=3)}, "cosine").axes
    heights = {round(float(v[1]), 9) for v in axes.collections[0].get_paths()[0].vertices}
    assert round(0.1 + 2 * 0.2 / np.sqrt(4) / 5, 9) in heights


def test_the_axis_label_lies_within_the_figure() -> None:
    small = curve(0.0).assign(
        mean=-0.0125, low=-0.0135, high=-0.0115, chance=-0.012, chance_sd=1e-3, mismatched=-0.0128
    )
    figure = pooling_figure({"kd": small}, "ssim")
    assert_well_drawn(figure)


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
    assert texts == ["SubDistill", "KD", "mismatched images", "random maps ± 2 SE of the mean"]
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

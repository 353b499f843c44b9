"""Transfer and calibration: every seed, mean and bin is where it belongs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.reliability import reliability_figure
from xaibench.figures.style import method_styles
from xaibench.figures.transfer import transfer_figure
from xaibench.similarity.intervals import seed_interval
from xaibench.similarity.predictions import probabilities, reliability

NAN = float("nan")
TABLE = pd.DataFrame({"tau+": [0.2, 0.3, 0.25, NAN], "tau-": [0.4, 0.35, 0.5, 0.1], "wrong": 81})


def test_seeds_means_and_intervals_of_transfer_are_drawn_beside_the_diagonal() -> None:
    figure = transfer_figure({"kd": TABLE, "at": TABLE[:1]}, names={"at": "attention"})
    (axes,) = figure.axes
    styles = method_styles(["kd", "at"])
    seeds, across, up, mean = [line for line in axes.lines if line.get_color() == styles["kd"].colour]
    kept = TABLE.dropna()
    np.testing.assert_allclose(np.column_stack(seeds.get_data()), kept[["tau+", "tau-"]])
    x, y = seed_interval(kept["tau+"]), seed_interval(kept["tau-"])
    np.testing.assert_allclose(across.get_xdata(), [x.low, x.high])
    np.testing.assert_allclose(up.get_ydata(), [y.low, y.high])
    assert (mean.get_xdata()[0], mean.get_ydata()[0]) == pytest.approx((x.mean, y.mean))
    _, across, _, alone = [line for line in axes.lines if line.get_color() == styles["at"].colour]
    assert np.isnan(across.get_xdata()).all()
    assert alone.get_xdata()[0] == 0.2
    diagonal = axes.lines[-1]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == list(axes.get_xlim()) == list(axes.get_ylim())
    assert axes.get_xlim()[0] < min(0, x.low, y.low)
    assert axes.get_xlim()[1] > max(x.high, y.high)
    note = figure.texts[0].get_text().replace("\n", " ")
    assert "95% intervals for this student;" in note
    assert "the teacher is wrong on 81 images" in note
    several = transfer_figure({"kd": TABLE}).texts[0].get_text().replace("\n", " ")
    assert "95% intervals for other training seeds;" in several
    assert_well_drawn(figure)


def test_transfer_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(DataError, match="the table of 'kd' lacks tau-, wrong: pass what transfer_table returns"):
        transfer_figure({"kd": TABLE[["tau+"]]})
    for nothing in ({}, {"kd": TABLE[3:]}):
        with pytest.raises(DataError, match="no seed has a defined transfer"):
            transfer_figure(nothing)


def curve(seed: int) -> pd.DataFrame:
    generator = torch.Generator().manual_seed(seed)
    p = probabilities(2 * torch.randn(60, 5, generator=generator))
    return reliability(p, torch.randint(0, 5, (60,), generator=generator))


def test_reliability_is_drawn_where_there_are_images() -> None:
    curves = {"teacher": curve(0), "kd/seed0": curve(1), "kd/seed1": curve(2)}
    figure = reliability_figure(curves)
    upper, lower = figure.axes
    diagonal, *lines = upper.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    for line, one in zip(lines[::2], curves.values(), strict=True):
        filled = one[one["count"] > 0]
        np.testing.assert_allclose(np.column_stack(line.get_data()), filled[["confidence", "accuracy"]])
    assert lines[2].get_color() == lines[4].get_color() == method_styles(["kd"])["kd"].colour
    for stairs, one in zip(lower.patches, curves.values(), strict=True):
        np.testing.assert_allclose(stairs.get_data().values, one["count"] / 60)
        np.testing.assert_allclose(stairs.get_data().edges, np.linspace(0, 1, 16))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["teacher", "KD"]
    assert_well_drawn(figure)


def test_bins_with_few_images_are_points_off_the_line() -> None:
    table = curve(0)
    place = table["count"].gt(0).idxmax()
    table.loc[:, "count"] *= 100
    table.loc[place, "count"] = 1
    _, line, points = reliability_figure({"kd": table}).axes[0].lines
    assert points.get_linestyle() == "None"
    assert list(points.get_xdata()) == [table.loc[place, "confidence"]]
    assert len(line.get_xdata()) == (table["count"] > 0).sum() - 1


def test_reliability_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(DataError, match="no curves to draw"):
        reliability_figure({})
    with pytest.raises(DataError, match="the curve of 'kd' lacks accuracy, count: pass what reliability returns"):
        reliability_figure({"kd": curve(0).drop(columns=["accuracy", "count"])})
    with pytest.raises(DataError, match="lacks images"):
        reliability_figure({"kd": curve(0).assign(count=0)})

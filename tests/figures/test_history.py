import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.history import _spread, history_figure
from xaibench.figures.style import method_styles


def history(accuracies):
    return pd.DataFrame({"epoch": range(1, len(accuracies) + 1), "validation_accuracy": accuracies})


def test_each_seed_the_mean_and_the_best_epoch_are_drawn():
    histories = {"kd/seed0": history([0.2, 0.5, 0.4]), "kd/seed1": history([0.3, 0.4, 0.6])}
    axes = history_figure(histories).axes[0]
    curves = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(curves, [[0.2, 0.5, 0.4], [0.3, 0.4, 0.6], [0.25, 0.45, 0.5]])
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
    assert dots == [(2, 0.5), (3, 0.6)]


def test_colours_are_those_of_the_method_and_names_stand_at_the_ends():
    names = ["subdistill", "kd:T=2"]
    figure = history_figure({f"{name}/seed0": history([0.1, 0.2]) for name in names}, teacher_accuracy=0.8)
    styles = method_styles(names)
    labels = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert set(labels) == {"SubDistill", "KD (T=2)", "teacher"}
    assert [labels["SubDistill"], labels["KD (T=2)"]] == [styles[name].colour for name in names]
    assert any(line.get_linestyle() == "--" and line.get_ydata()[0] == 0.8 for line in figure.axes[0].lines)


def test_markers_and_bold_lines_are_explained_below():
    one = {"kd/seed0": history([0.2, 0.5])}
    figure = history_figure(one)
    assert [text.get_text() for text in figure.texts] == ["marker: the best epoch, whose student is kept"]
    (note,) = (figure := history_figure(one | {"kd/seed1": history([0.3, 0.4])})).texts
    assert note.get_text().endswith("; bold: mean over seeds")
    assert_well_drawn(figure)


def test_runs_of_different_length_are_drawn_to_their_ends():
    axes = history_figure({"kd/seed0": history([0.2]), "kd/seed1": history([0.4, 0.6])}).axes[0]
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), [0.3, 0.6])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_are_kept_apart_and_in_order(places):
    spread = np.array(_spread(places, 0.1, (-9, 9)))
    assert (np.diff(np.sort(spread)) >= 0.1 - 1e-9).all()
    assert (np.diff(spread[np.argsort(places, kind="stable")]) > 0).all()
    assert spread.mean() == pytest.approx(np.mean(places))


def test_bad_histories_are_refused():
    with pytest.raises(DataError, match="no training histories: distil at least one"):
        history_figure({})
    with pytest.raises(DataError, match="history of 'kd' lacks validation_accuracy: it needs one row an epoch"):
        history_figure({"kd": pd.DataFrame({"epoch": [1]})})
    with pytest.raises(DataError, match="history of 'kd' lacks rows"):
        history_figure({"kd": history([])})
    with pytest.raises(DataError, match="history of 'kd' lacks rows"):
        history_figure({"kd": history([float("nan")] * 2)})

from __future__ import annotations

import numpy as np
import pytest

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import ConfigError, DataError
from xaibench.figures.influence import influence_figure
from xaibench.figures.style import save_figure


@pytest.fixture
def example():
    """20 grey images whose brightness is their index / 20, weights that rise with it, and labels."""
    images = np.broadcast_to(np.arange(20).reshape(20, 1, 1, 1) / 20, (20, 3, 8, 8))
    return images, np.linspace(0.05, 1.95, 20), [f"class {i % 3}" for i in range(20)]


def drawn(figure):
    """The panels with images: [(index of the image, text under it)], row by row."""
    panels = [axes for axes in figure.axes if axes.images]
    return [(round(20 * float(axes.images[0].get_array()[0, 0, 0])), axes.get_xlabel()) for axes in panels]


def test_the_rows_hold_the_largest_and_the_smallest_weights_in_order(example):
    panels = drawn(influence_figure(*example, count=4))
    assert [index for index, _ in panels] == [19, 18, 17, 16, 0, 1, 2, 3]
    assert panels[0][1] == "class 1\nweight 1.95"
    assert panels[4][1] == "class 0\nweight 0.05"


def test_influences_decide_where_they_are_given(example):
    scores = np.linspace(-3, 3, 20)  # the weights rise with the harm, as with exp_minmax
    panels = drawn(influence_figure(*example, scores=scores, count=2))
    assert [index for index, _ in panels] == [0, 1, 19, 18]


def test_no_image_stands_in_both_rows(example):
    images, weights, labels = example
    panels = drawn(influence_figure(images[:5], weights[:5], labels[:5]))
    assert [index for index, _ in panels] == [4, 3, 0, 1]


def test_the_histogram_counts_all_weights_and_marks_one(example):
    figure = influence_figure(*example, title="influence")
    (axes,) = [axes for axes in figure.axes if not axes.images]
    assert sum(patch.get_height() for patch in axes.patches) == 20
    assert axes.get_xlim()[0] == 0
    assert [line.get_xdata()[0] for line in axes.lines] == [1]
    assert axes.texts[0].get_text() == "50% of 20 images below 1"
    assert [text.get_text() for text in figure.texts] == ["influence", "most helpful", "most harmful"]


def test_equal_weights_are_drawn_too(example):
    figure = influence_figure(example[0], np.ones(20), example[2])
    (axes,) = [axes for axes in figure.axes if not axes.images]
    assert sum(patch.get_height() for patch in axes.patches) == 20
    assert axes.get_xlim()[1] > 1


@pytest.mark.parametrize(("width", "count"), [("single", 4), ("double", 2), ("double", 8), (5.0, 8)])
def test_long_class_names_fit_and_images_keep_their_shape(example, width, count):
    images, weights, _ = example
    labels = ["a quite long class name"] * 20
    figure = influence_figure(images, weights, labels, count=count, title="kd, seed 0", width=width)
    assert_well_drawn(figure)
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert not axes.images or box.width == pytest.approx(box.height, rel=1e-6)


def test_a_narrow_figure_has_fewer_images(example):
    assert len(influence_figure(*example, width="single").axes) == 2 * 5 + 1


def test_the_same_weights_give_the_same_bytes(example, tmp_path):
    one, other = (save_figure(influence_figure(*example), tmp_path / name, ("pdf",))[0] for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.ones(19)}, r"20 images but weights of the shape \(19,\): give one an image"),
        ({"scores": np.ones((20, 1))}, r"20 images but influences of the shape \(20, 1\)"),
        ({"weights": np.full(20, np.nan)}, "the weights must be finite, got NaN"),
        ({"weights": -np.ones(20)}, "the weights must be at least 0, got -1"),
        ({"scores": np.full(20, np.inf)}, "the influences must be finite, got NaN or infinity"),
        ({"labels": ["a"]}, "20 images but 1 labels"),
        ({"count": 0}, "count must be at least 1 image a row, got 0"),
        ({"images": np.ones((1, 1, 4, 4)), "weights": np.ones(1), "labels": ["a"]}, "at least 2 images, got 1"),
        ({"images": np.full((20, 1, 4, 4), 2.0)}, r"image values must lie in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(example, change, message):
    given = {**dict(zip(("images", "weights", "labels"), example)), **change}
    with pytest.raises((DataError, ConfigError), match=message):
        influence_figure(given.pop("images"), given.pop("weights"), given.pop("labels"), **given)

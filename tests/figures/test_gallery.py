import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError, UnknownNameError
from xaibench.figures.gallery import displayed, gallery, pixels, symmetric_limit
from xaibench.figures.style import save_figure

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "cifar100-40" / "test"


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(2, 3, 8, 8))
    maps = rng.normal(size=(2, 8, 8))
    students = {"kd": rng.normal(size=(2, 8, 8)), "subdistill:centring=mean": maps * 3}
    return images, maps, students


def heatmaps(figure):
    """The colour-mapped panels: (title row order) [(array, limits)]."""
    shown = [axes.images[0] for axes in figure.axes if axes.images]
    return [(image.get_array(), image.get_clim()) for image in shown if image.get_array().ndim == 2]


@settings(deadline=None, max_examples=25)
@given(
    arrays(np.float64, (3, 4, 4), elements=st.floats(-1e3, 1e3, allow_subnormal=False)),
    st.floats(1e-2, 1e2),
)
def test_shares_sum_to_one_and_do_not_depend_on_the_scale(maps, factor):
    shares = displayed(maps)
    total = np.abs(shares).sum(axis=(1, 2))
    zero = np.abs(maps).sum(axis=(1, 2)) == 0
    np.testing.assert_allclose(total[~zero], 1)
    np.testing.assert_array_equal(shares[zero], 0)
    np.testing.assert_allclose(displayed(maps * factor), shares, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.sign(shares), np.sign(maps))


def test_none_keeps_the_values_and_undefined_maps_become_undefined_throughout():
    maps = np.arange(8.0).reshape(2, 2, 2)
    np.testing.assert_array_equal(displayed(maps, "none"), maps)
    maps[1, 0, 0] = np.inf
    shown = displayed(maps)
    assert np.isnan(shown[1]).all()
    assert np.isfinite(shown[0]).all()


def test_displayed_leaves_its_input_alone_and_refuses_other_things():
    maps = np.ones((1, 2, 2))
    displayed(maps)
    assert (maps == 1).all()
    with pytest.raises(UnknownNameError, match="unknown normalisation 'shares': did you mean 'share'"):
        displayed(maps, "shares")
    with pytest.raises(DataError, match=r"shape \(N, H, W\), got \(1, 3, 2, 2\): sum over the channels"):
        displayed(np.ones((1, 3, 2, 2)))


def test_the_limit_is_a_quantile_so_single_pixels_do_not_wash_out_the_rest():
    values = np.linspace(-1, 1, 2001)
    assert symmetric_limit(values) == pytest.approx(np.quantile(np.abs(values), 0.995))
    values[0] = 1e6
    assert symmetric_limit(values) < 1.01
    assert symmetric_limit(-values) == symmetric_limit(values)


@pytest.mark.parametrize(
    ("values", "limit"), [([0.0, 0.0], 1.0), ([np.nan], 1.0), ([], 1.0), ([0.0] * 999 + [3.0], 3.0)]
)
def test_the_limit_is_never_zero(values, limit):
    assert symmetric_limit(values) == limit


def test_pixels_repeats_grey_and_refuses_normalised_images():
    grey = pixels(np.full((1, 1, 2, 2), 0.5))
    assert grey.shape == (1, 2, 2, 3)
    assert (grey == 0.5).all()
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]: undo the normalisation with Preprocessing.invert"):
        pixels(np.full((1, 3, 2, 2), -0.1))
    with pytest.raises(DataError, match=r"shape \(N, 1 or 3, H, W\), got \(3, 2, 2\)"):
        pixels(np.zeros((3, 2, 2)))


def test_all_panels_share_one_symmetric_scale(example):
    figure = gallery(*example, titles=["a\nrather than b", "c"])
    shown = heatmaps(figure)
    assert len(shown) == 6
    limits = {limits for _, limits in shown}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == -high
    assert high == symmetric_limit(np.stack([displayed(maps) for maps in (example[1], *example[2].values())]))
    np.testing.assert_allclose(shown[0][0], shown[2][0])  # three times the teacher's map: the same shares


def test_raw_relevance_keeps_its_size(example):
    shown = heatmaps(gallery(*example, titles=["", ""], normalise="none"))
    np.testing.assert_allclose(shown[2][0], 3 * shown[0][0])


def test_titles_scores_and_clipping_are_written_in_the_figure(example):
    scores = {"kd": ["cosine 0.71", "cosine 0.12"], "teacher": ["predicts a", ""]}
    figure = gallery(*example, titles=["coat\nrather than shirt", "c"], scores=scores)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert {"cosine 0.71", "cosine 0.12", "predicts a"} <= set(labels)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"coat", "rather than shirt", "c"} <= set(texts)
    assert [axes.get_title() for axes in figure.axes][:4] == ["input", "teacher", "KD", "SubDistill (centring=mean)"]
    assert any("share of the map's total |relevance|\ncolours clipped beyond ±" in label for label in labels)
    logits = gallery(*example, titles=["", ""], normalise="none")
    assert any(axes.get_xlabel().startswith("relevance (logits)") for axes in logits.axes)


@pytest.mark.parametrize(("width", "inches"), [("single", 3.35), ("double", 6.46), (2.0, 2.0)])
def test_width_is_kept_and_panels_are_square_and_inside(example, width, inches):
    figure = gallery(*example, titles=["", ""], width=width)
    assert figure.get_size_inches()[0] == pytest.approx(inches, abs=0.2)
    assert figure.get_size_inches()[0] <= 6.9
    for axes in figure.axes:
        if axes.images:
            box = axes.get_window_extent()
            assert box.width == pytest.approx(box.height, rel=1e-6)
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.width


def test_long_names_stay_in_their_column(example):
    images, teacher, students = example
    students = {f"a-very-long-method-name-{i}": students["kd"] for i in range(5)}
    titles = ["a quite long class name\nrather than another long name"] * 2
    figure = gallery(images, teacher, students, titles=titles, scores={"teacher": ["predicts a long name 71%"] * 2})
    assert_well_drawn(figure)
    for axes in (axes for axes in figure.axes if axes.images):
        for text in (axes.title, axes.xaxis.label, *axes.texts):
            assert text.get_window_extent().width <= axes.get_window_extent().width * 1.1, text.get_text()


def test_students_that_do_not_fit_beside_each_other_stand_in_bands(example):
    images, teacher, students = example
    names = [f"m{i}" for i in range(9)]
    figure = gallery(images, teacher, dict.fromkeys(names, students["kd"]), titles=["", ""], width="single")
    columns = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert columns == [name for i in (0, 3, 6) for name in ("input", "teacher", *names[i : i + 3])]


def test_an_undefined_map_is_drawn_grey(example):
    images, teacher, students = example
    students["kd"][0, 0, 0] = np.nan
    figure = gallery(images, teacher, students, titles=["", ""])
    figure.canvas.draw()
    axes = figure.axes[2]
    box = axes.get_window_extent()
    drawn = np.asarray(figure.canvas.buffer_rgba())[::-1]
    inner = drawn[int(box.y0) + 3 : int(box.y1) - 3, int(box.x0) + 3 : int(box.x1) - 3, :3]
    assert (inner == 0xBD).all()


def test_undefined_maps_are_named_in_place_of_their_scores(example):
    images, teacher, students = example
    students["kd"][0], teacher[1] = np.nan, np.nan
    figure = gallery(images, teacher, students, titles=["", ""], scores={"kd": ["cosine nan", "cosine 0.12"]})
    panels = [axes.get_xlabel() for axes in figure.axes if axes.images][:8]
    gone = "undefined: incomplete"
    assert panels == ["", "", gone, "", "", gone, "cosine 0.12", ""]


def test_a_heading_stands_above_all_columns(example):
    plain, headed = (gallery(*example, titles=["", ""], heading=text) for text in ("", "LRP, seed 0"))
    headed.canvas.draw()
    (heading,) = headed.texts
    assert heading.get_text() == "LRP, seed 0"
    assert heading.get_window_extent().y1 <= headed.bbox.y1
    assert all(heading.get_window_extent().y0 >= axes.get_tightbbox().y1 for axes in headed.axes)
    assert plain.get_size_inches()[1] < headed.get_size_inches()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titles": ["a"]}, "2 images but 1 titles"),
        ({"scores": {"kd": ["a"]}}, "2 images but 1 scores for 'kd'"),
        ({"scores": {"kdd": ["a", "b"]}}, "unknown gallery column 'kdd': did you mean 'kd'"),
        ({"students": {"kd": np.zeros((1, 8, 8))}}, r"heatmaps of 'kd' have the shape \(1, 8, 8\)"),
        ({"students": {"kd": np.zeros((2, 4, 4))}}, "explain the same images with both models"),
        (
            {"images": np.zeros((0, 3, 8, 8)), "teacher": np.zeros((0, 8, 8)), "students": {}, "titles": []},
            "at least one",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(example, change, message):
    images, teacher, students = example
    given = {"images": images, "teacher": teacher, "students": students, "titles": ["", ""], **change}
    with pytest.raises((DataError, UnknownNameError), match=message):
        gallery(given.pop("images"), given.pop("teacher"), given.pop("students"), **given)


def test_a_photograph_appears_as_it_is(tmp_path):
    if not PHOTOS.is_dir():
        pytest.skip(f"{PHOTOS} is absent: no photograph to draw")
    file = sorted((PHOTOS / "tiger").glob("*.png"))[0]
    photo = np.asarray(Image.open(file).convert("RGB"))
    maps = np.zeros((1, 32, 32))
    figure = gallery(photo.transpose(2, 0, 1)[None] / 255, maps, {}, titles=[""])
    (png,) = save_figure(figure, tmp_path / "gallery", ("png",))
    drawn = np.asarray(Image.open(io.BytesIO(png.read_bytes())).convert("RGB")).astype(int)
    box = figure.axes[0].get_position()
    height, width = drawn.shape[:2]
    for row, column in ((3, 5), (16, 16), (30, 20)):
        x = int((box.x0 + (column + 0.5) / 32 * box.width) * width)
        y = int((1 - box.y1 + (row + 0.5) / 32 * box.height) * height)
        np.testing.assert_allclose(drawn[y, x], photo[row, column], atol=1)

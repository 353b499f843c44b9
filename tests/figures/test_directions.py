from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.directions import directions_figure, of_one_model
from xaibench.figures.inside import inside_figure
from xaibench.figures.style import figure_width, method_styles, save_figure

N, K, SIDE = 3, 2, 8
TITLES = ["cat\nrather than dog", "dog", ""]


def maps(seed: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((N, K, SIDE, SIDE))


def draw(teacher: np.ndarray | None = None, student: np.ndarray | None = None, **changes: object) -> Figure:
    options: dict = {"titles": TITLES, "cosines": np.array([[0.5, np.nan], [0.25, -1.0], [0.0, 1.0]])} | changes
    pictures = np.random.default_rng(9).uniform(size=(N, 1, SIDE, SIDE))
    teacher = maps(0) if teacher is None else teacher
    student = maps(1, 50) if student is None else student
    return directions_figure(pictures, teacher, student, **options)


def drawn_maps(figure: Figure) -> list[np.ndarray]:
    images = [axes.images[0] for axes in figure.axes if axes.images]
    return [np.asarray(image.get_array()) for image in images if image.norm.vmin < 0]


def test_columns_are_input_teacher_and_student() -> None:
    figure = draw()
    drawn = drawn_maps(figure)
    assert len(drawn) == N * 2 * K
    teacher, student = of_one_model(maps(0)), of_one_model(maps(1, 50))
    for row in range(N):
        for j in range(K):
            np.testing.assert_allclose(drawn[row * 2 * K + j], teacher[row, j])
            np.testing.assert_allclose(drawn[row * 2 * K + K + j], student[row, j])
    assert [text.get_text() for text in figure.texts] == ["teacher", "student"]
    headings = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert headings == ["direction 1", "direction 2"] * 2


def test_a_models_directions_share_one_unit_and_all_panels_one_scale() -> None:
    shares = of_one_model(maps(1, 50))
    np.testing.assert_allclose(np.abs(shares).sum(axis=(1, 2, 3)), 1)
    np.testing.assert_allclose(shares[0, 1] / shares[0, 0], maps(1)[0, 1] / maps(1)[0, 0])
    norms = {image.norm.vmax for axes in draw().axes for image in axes.images if image.norm.vmin < 0}
    assert len(norms) == 1


def test_cosines_stand_under_the_students_panels() -> None:
    labels = [axes.get_xlabel() for axes in draw().axes if "cosine" in axes.get_xlabel()]
    assert labels == ["cosine 0.50", "cosine -", "cosine 0.25", "cosine −1.00", "cosine 0.00", "cosine 1.00"]


def test_clipping_is_stated_within_the_figure() -> None:
    assert "\ncolours clipped beyond ±" in draw().axes[-1].get_xlabel()


def test_undefined_and_empty_maps(tmp_path) -> None:
    teacher = maps(0)
    teacher[0, 1, 2, 2] = np.nan
    teacher[1] = 0
    shares = of_one_model(teacher)
    assert np.isnan(shares[0, 1]).all()
    assert np.isfinite(shares[0, 0]).all()
    assert not shares[1].any()
    paths = save_figure(draw(teacher), tmp_path / "directions")
    assert [path.suffix for path in paths] == [".pdf", ".png"]


def test_the_figure_fits_its_width_and_pyplot_knows_nothing_of_it() -> None:
    backend = matplotlib.get_backend()
    figure = draw(width="single")
    assert figure.get_figwidth() <= figure_width("single") + 1e-9
    for axes in figure.axes:
        box = axes.get_position()
        assert box.x0 >= 0
        assert box.x1 <= 1
        assert box.y0 >= 0
        assert box.y1 <= 1
    assert matplotlib.get_backend() == backend


@pytest.mark.parametrize(
    "changes", [{"titles": TITLES[:2]}, {"cosines": np.zeros((N, 1))}, {"student": maps(0)[:, :1]}]
)
def test_what_does_not_match_is_refused(changes: dict) -> None:
    with pytest.raises(DataError, match="give one of each for the same images and directions"):
        draw(**changes)
    with pytest.raises(DataError, match=r"must have the shape \(N, k, H, W\)"):
        draw(maps(0)[:, 0])


def table() -> pd.DataFrame:
    rows = []
    for layer in ("layer1:layer1", "layer2:blocks.1"):
        for pairing, lift in (("matched", 0.3), ("pca subspace", 0.2), ("random subspace", 0.0)):
            rows += [
                {
                    "layer": layer,
                    "method": "teacher",
                    "measure": "relevance share",
                    "pairing": pairing,
                    "k": k,
                    "value": min(1, k / 8 + lift),
                    "low": np.nan if "random" in pairing else k / 8,
                    "high": 1.0,
                }
                for k in (1, 4, 8)
            ]
        for method, value in (("kd", 0.4), ("subdistill", 0.8), ("untrained", np.nan)):
            for measure in ("relevance cosine", "linear CKA"):
                for pairing, lift in (("matched", 0.0), ("random rotation", -0.3), ("mismatched images", -0.4)):
                    rows.append(
                        {
                            "layer": layer,
                            "method": method,
                            "measure": measure,
                            "pairing": pairing,
                            "k": 4,
                            "value": value + lift,
                            "low": value + lift - 0.1,
                            "high": value + lift + 0.1,
                        }
                    )
            rows.append(
                {
                    "layer": layer,
                    "method": method,
                    "measure": "direction cosine",
                    "pairing": "matched",
                    "k": 1,
                    "value": value,
                    "low": value,
                    "high": value,
                }
            )
    return pd.DataFrame(rows)


def test_the_inside_figure_shows_curves_and_measures(tmp_path) -> None:
    figure = inside_figure(table())
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["layer1", "layer2:blocks.1", "relevance cosine", "linear CKA"]
    curve = figure.axes[0].lines[0]
    assert curve.get_xydata().tolist() == [[1, 0.425], [4, 0.8], [8, 1.0]]
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["layer1", "layer2:\nblocks.1"]
    colour = method_styles(["kd", "subdistill", "untrained"])["subdistill"].colour
    marks = [line for line in figure.axes[2].lines if line.get_color() == colour and line.get_marker() != "None"]
    assert [mark.get_xdata()[0] for mark in marks] == [0.8, 0.8]
    save_figure(figure, tmp_path / "inside")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:5] == ["KD", "SubDistill", "untrained", "random rotation", "mismatched images"]
    assert "PCA subspace" in legend


def test_an_inside_figure_without_students_or_columns() -> None:
    teacher = table().query("method == 'teacher'")
    assert len(inside_figure(teacher).axes) == 2
    assert len(inside_figure(table().assign(value=float("nan"))).axes) == 4  # no image was explained validly
    with pytest.raises(DataError, match="the table lacks pairing, k"):
        inside_figure(table().drop(columns=["pairing", "k"]))
    with pytest.raises(DataError, match="the table lacks rows"):
        inside_figure(table()[:0])


def test_the_inside_figure_names_its_line_and_images_in_titles_of_one_size() -> None:
    figure = inside_figure(table().assign(n=60))
    want = "bands and bars: 95% intervals, 60 images; vertical line: the student's width"
    assert [text.get_text() for text in figure.texts] == [want]
    assert len({axes.title.get_fontsize() for axes in figure.axes}) == 1
    assert_well_drawn(figure)
    assert inside_figure(table()).texts[0].get_text().startswith("bands and bars: 95% intervals; vertical")
    assert "FSS" not in [axes.get_title() for axes in figure.axes]

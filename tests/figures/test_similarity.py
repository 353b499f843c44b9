import numpy as np
import pandas as pd
import pytest

from tests.figures.well_drawn import assert_well_drawn
from xaibench.errors import DataError
from xaibench.figures.similarity import similarity_figure
from xaibench.figures.style import method_styles


@pytest.fixture
def summary():
    rows = []
    for place, method in enumerate(("subdistill", "kd", "student-only")):
        for explainer in ("lrp", "ig"):
            for metric, chance in (("cosine", 0.0), ("sign_agreement", 0.5)):
                mean = chance + 0.3 - 0.1 * place
                rows.append(
                    {
                        "method": method,
                        "explainer": explainer,
                        "metric": metric,
                        "mean": mean,
                        "low": mean - 0.02,
                        "high": mean + 0.03,
                        "n": 100,
                        "chance": chance,
                        "chance_sd": 0.1,
                        "random_student": chance + 0.01,
                        "mismatched": chance + 0.06,
                    }
                )
    return pd.DataFrame(rows)


def lines(axes, **properties):
    return [x for x in axes.lines if all(getattr(x, f"get_{k}")() == v for k, v in properties.items())]


def test_one_panel_an_explainer_and_one_group_a_metric(summary):
    figure = similarity_figure(summary)
    assert [axes.get_title() for axes in figure.axes] == ["LRP", "integrated gradients"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["cosine", "sign agreement"]
    assert figure.get_size_inches()[0] == 6.9


def test_every_mean_interval_null_and_chance_is_where_it_belongs(summary):
    axes = similarity_figure(summary).axes[0]
    styles = method_styles(["subdistill", "kd", "student-only"])
    chosen = summary[(summary["explainer"] == "lrp") & (summary["method"] == "kd")]
    mine = lines(axes, color=styles["kd"].colour)
    points = sorted(x.get_xdata()[0] for x in mine if x.get_marker() == styles["kd"].marker)
    np.testing.assert_allclose(points, sorted(chosen["mean"]))
    bars = sorted(tuple(x.get_xdata()) for x in mine if len(x.get_xdata()) == 2)
    np.testing.assert_allclose(bars, sorted(zip(chosen["low"], chosen["high"])))
    hollow = [x for x in axes.lines if x.get_markerfacecolor() == "white"]
    assert len(hollow) == 3 * 2 * 2
    dashed = sorted({x.get_xdata()[0] for x in axes.lines if x.get_linestyle() == "--"})
    assert dashed == [0.0, 0.5]
    bands = [collection.get_paths()[0].get_extents() for collection in axes.collections]
    assert {round(band.width, 9) for band in bands} == {round(2 * 2 * 0.1 / 10, 9)}


def test_rows_do_not_overlap(summary):
    axes = similarity_figure(summary).axes[0]
    styles = method_styles(["subdistill", "kd", "student-only"])
    heights = [
        x.get_ydata()[0] for s in styles.values() for x in lines(axes, color=s.colour) if x.get_marker() == s.marker
    ]
    assert len(heights) == 6
    assert np.diff(sorted(heights)).min() > 0.1


def test_the_legend_names_methods_nulls_and_chance_outside_the_data(summary):
    figure = similarity_figure(summary)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "SubDistill",
        "KD",
        "Student only",
        "random student",
        "mismatched images",
        "random maps ± 2 SE of the mean",
    ]


def test_nulls_are_optional_and_undefined_means_are_left_out(summary):
    summary.loc[summary["method"] == "kd", ["mean", "low", "high"]] = np.nan
    figure = similarity_figure(summary.drop(columns=["random_student", "mismatched"]), width="single")
    kd = method_styles(["subdistill", "kd", "student-only"])["kd"]
    assert not lines(figure.axes[0], color=kd.colour)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["SubDistill", "KD", "Student only", "random maps ± 2 SE of the mean"]


def test_the_band_is_that_of_the_mean_over_images_not_over_seeds_too(summary):
    axes = similarity_figure(summary.assign(n=300, seeds=3)).axes[0]
    widths = {round(collection.get_paths()[0].get_extents().width, 9) for collection in axes.collections}
    assert widths == {round(2 * 2 * 0.1 / np.sqrt(100), 9)}


def test_shifted_maps_are_a_null_where_the_summary_has_them(summary):
    summary["shifted"] = np.linspace(0.11, 0.22, len(summary))
    figure = similarity_figure(summary)
    assert "shifted maps" in [text.get_text() for text in figure.legends[0].get_texts()]
    crosses = [x.get_xdata()[0] for axes in figure.axes for x in lines(axes, marker="x")]
    np.testing.assert_allclose(sorted(crosses), summary["shifted"])
    undefined = similarity_figure(summary.assign(shifted=np.nan))
    assert "shifted maps" not in [text.get_text() for text in undefined.legends[0].get_texts()]


def test_a_note_stands_below_the_panels(summary):
    figure = similarity_figure(summary.assign(seeds=1), note="2 of 7 explainers")
    assert "bars: 95% intervals for this student; 2 of 7 explainers" in [text.get_text() for text in figure.texts]
    assert_well_drawn(figure)


def test_explainers_that_do_not_fit_side_by_side_stand_in_rows(summary):
    many = pd.concat([summary.assign(explainer=summary["explainer"] + f":a={i}") for i in range(2)])
    figure = similarity_figure(many, width="single")
    assert len({axes.get_position().y0 for axes in figure.axes}) == 2
    assert len({axes.get_xlim() for axes in figure.axes}) == 1


def test_names_stand_in_place_of_labels(summary):
    figure = similarity_figure(summary, names={"kd": "Hinton", "lrp": "relevance", "cosine": "cos"})
    assert figure.axes[0].get_title() == "relevance"
    assert figure.axes[0].get_yticklabels()[0].get_text() == "cos"
    assert "Hinton" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_bad_summaries_are_refused(summary):
    with pytest.raises(DataError, match="lacks the columns low, chance_sd"):
        similarity_figure(summary.drop(columns=["low", "chance_sd"]))
    with pytest.raises(DataError, match="no rows: score at least one method"):
        similarity_figure(summary[:0])
    with pytest.raises(DataError, match="several rows for one method, explainer and metric: aggregate over seeds"):
        similarity_figure(pd.concat([summary, summary]))

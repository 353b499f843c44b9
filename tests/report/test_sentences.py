"""What the numbers of a run say in sentences, and what is seen in its figures."""

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import DataError
from xaibench.report.seen import gallery_seen, means_seen, scores_seen, similarity_seen, training_seen
from xaibench.report.sentences import headline, rests_on


@pytest.fixture
def summary():
    rows = [("kd", "lrp", 0.5), ("subdistill", "lrp", 0.71), ("subdistill", "ig", 0.41), ("kd", "ig", 0.3)]
    return pd.DataFrame(
        [
            {
                "method": method,
                "explainer": explainer,
                "metric": "cosine",
                "mean": mean,
                "low": mean - 0.03,
                "high": mean + 0.03,
                "n": 300,
                "images": 100,
                "explained": 120,
                "seeds": 1,
                "nan": 0,
                "chance": 0.0,
                "chance_sd": 0.125,
                "mismatched": 0.12,
            }
            for method, explainer, mean in rows
        ]
    )


def test_the_headline_names_the_best_the_others_and_the_controls(summary):
    assert headline(summary) == (
        "On 100 images the heatmaps (LRP) of the one student distilled with SubDistill are the most like the teacher's "
        "of all: cosine 0.71 [0.68, 0.74]; KD 0.50; mismatched images give 0.12, chance is 0.00. "
        "One training of each says nothing about other seeds."
    )
    assert "(integrated gradients)" in headline(summary, explainer="ig")
    several = headline(summary.assign(seeds=3))
    assert "the heatmaps (LRP) of the 3 students distilled with SubDistill are" in several
    assert "One training" not in several


def test_a_control_is_never_called_distilled(summary):
    better = pd.concat([summary, summary.iloc[:1].assign(method="student-only", mean=0.9, low=0.8, high=0.95)])
    text = headline(better)
    assert "distilled with SubDistill are the most like the teacher's of all distilled ones: cosine 0.71" in text
    assert "control Student only 0.90" in text
    alone = headline(summary.iloc[:1].assign(method="random-control[kd]"))
    assert "of the one student of the control Random control [KD] are compared with the teacher's: cosine" in alone
    assert "distilled" not in alone


def test_the_headline_does_without_nulls_and_undefined_means(summary):
    summary.loc[summary["method"] == "kd", "mean"] = np.nan
    text = headline(summary.drop(columns="mismatched"))
    assert "KD" not in text
    assert "[0.68, 0.74]; chance is 0.00." in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.04, 0.24, "+0.10 [-0.04, +0.24], which includes 0: that anything was taken over"),
        (0.02, 0.18, "+0.10 [+0.02, +0.18]: so much of its decision structure was taken over from the teacher."),
    ],
)
def test_the_headline_says_what_was_taken_over_from_the_teacher(summary, low, high, said):
    text = headline(summary.assign(lift=0.1, lift_low=low, lift_high=high))
    assert "chance is 0.00." in text
    assert f" Its lift over an independently trained student is {said}" in text
    negative = headline(summary.assign(lift=-0.2, lift_low=-0.3, lift_high=-0.1))
    assert "-0.20 [-0.30, -0.10]: it is less like the teacher than" in negative
    for lift in (0.1, np.nan):  # of one image; without an independent student
        assert headline(summary.assign(lift=lift, lift_low=np.nan, lift_high=np.nan)) == headline(summary)


def test_the_headline_takes_shifted_maps_for_the_zero_where_they_were_scored(summary):
    assert "mismatched images give 0.12, shifted maps give 0.21." in headline(summary.assign(shifted=0.21))
    assert "mismatched images give 0.12, chance is 0.00." in headline(summary.assign(shifted=np.nan))


def test_a_headline_without_numbers_is_refused(summary):
    with pytest.raises(DataError, match="no defined 'ssim' of 'lrp': choose a metric"):
        headline(summary, explainer="lrp", metric="ssim")


def test_means_name_the_images_and_seeds_that_they_rest_on(summary):
    def said(table):
        return rests_on(table).partition("every method has a score. ")[2]

    assert said(summary) == (
        "LRP: 100 of 120 images and 1 seed; integrated gradients: 100 of 120 images and 1 seed. "
        "Intervals speak for this student, not for its method: one training says nothing about others."
    )
    kd, lrp = summary["method"] == "kd", summary["explainer"] == "lrp"
    unequal = summary.assign(seeds=[3 - k for k in kd], images=np.where(lrp, 100, 90))
    ssim = unequal[lrp].assign(metric="ssim", images=70)
    assert said(pd.concat([unequal, ssim])) == (
        "LRP: 70 to 100 (by metric) of 120 images and 3 seeds (KD 2); "
        "integrated gradients: 90 of 120 images and 3 seeds (KD 2). Intervals speak for other training seeds."
    )


def test_what_figures_show_is_said(summary):
    assert similarity_seen(summary.assign(shifted=0.2)) == (
        "Chart of the students' likeness to their teacher. cosine by LRP: SubDistill 0.71, KD 0.50; shifted maps up to "
        "0.20. cosine by integrated gradients: SubDistill 0.41, KD 0.30; shifted maps up to 0.20."
    )
    assert scores_seen(summary) == (
        "Table of 4 means in colours, from 0.30 (cosine of KD by integrated gradients) to 0.71 (cosine of SubDistill "
        "by LRP)."
    )
    undefined = summary.assign(mean=np.nan)
    assert similarity_seen(undefined).endswith("teacher. Nothing is defined.")
    assert scores_seen(undefined) == "Table of 4 means in colours, all undefined."
    table = pd.DataFrame(
        {"method": ["teacher", "kd"], "accuracy": [0.9, 0.8], "accuracy low": 0.7, "accuracy high": 1.0}
    )
    assert means_seen(table) == "Chart of means, the highest first. accuracy: teacher 0.90, KD 0.80."
    scores = pd.DataFrame({"method": ["kd", "at"], "metric": "cosine", "image": ["a", "b"], "value": [0.73, -0.1]})
    assert gallery_seen("lrp", scores) == (
        "Heatmaps by LRP of the teacher and of KD, AT for 2 test images: cosine to the teacher from 0.73 (KD for a) "
        "down to -0.10 (AT for b)."
    )
    assert gallery_seen("lrp", scores.assign(value=np.nan)).endswith("for 2 test images; no score is defined.")
    histories = {"kd/seed0": pd.DataFrame({"validation_accuracy": [0.5, 0.7, 0.6]})}
    assert training_seen(histories) == "Curves over 3 epochs. Best validation accuracy: KD, seed 0 0.70."

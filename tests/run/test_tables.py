"""The two tables that a person reads, and the thresholds on them, from made-up scores."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.run.tables import method_table, summarise
from xaibench.run.thresholds import Threshold, parse_threshold, shortfalls

RUN = SimpleNamespace(
    explainers=("lrp", "ig:steps=20"), config=SimpleNamespace(similarity=SimpleNamespace(metrics=("cosine", "ssim")))
)


def scores(values, method="kd", pairing="matched", seed=0):
    return pd.DataFrame(
        {
            "method": method,
            "seed": seed,
            "explainer": "lrp",
            "metric": "cosine",
            "pairing": pairing,
            "image": [f"i{k}" for k in range(len(values))],
            "value": values,
        }
    )


def test_the_mean_is_over_images_and_seeds_and_nan_is_counted():
    both = pd.concat([scores([0.2, 0.4, np.nan]), scores([0.6, 0.8, 1.0], seed=1)])
    nulls = scores([0.0, 0.1, 0.7], pairing="mismatched images")
    row = summarise(pd.concat([both, nulls]), 7, "signed").iloc[0]
    assert row["mean"] == pytest.approx(np.mean([0.2, 0.4, 0.6, 0.8]))
    assert (row["n"], row["nan"], row["images"], row["explained"], row["seeds"]) == (4, 1, 2, 3, 2)
    assert row["low"] < row["mean"] < row["high"] <= 1
    assert row["mismatched"] == pytest.approx(0.05)  # on the same images
    assert np.isnan(row["random_student"])
    assert row["chance"] == 0
    assert row["chance_sd"] == pytest.approx(1 / 7, rel=0.05)


def test_methods_are_compared_on_the_images_that_all_of_them_have():
    """One that fails on the hard images must not look better for it."""
    hard_left_out = scores([0.8, np.nan, np.nan, 0.9], method="at")
    table = summarise(pd.concat([scores([0.9, 0.1, 0.2, 0.95]), hard_left_out]), 7, "signed").set_index("method")
    assert table.loc["kd", "mean"] == pytest.approx((0.9 + 0.95) / 2)
    assert table.loc["kd", "mean"] > table.loc["at", "mean"] == pytest.approx(0.85)
    assert table["images"].tolist() == [2, 2]
    assert table["explained"].tolist() == [4, 4]
    assert table["nan"].tolist() == [0, 2]


def test_a_method_without_any_score_does_not_empty_the_others():
    table = summarise(pd.concat([scores([0.9, 0.1]), scores([np.nan] * 2, method="at")]), 7, "signed")
    assert table["mean"].tolist() == [0.5, pytest.approx(np.nan, nan_ok=True)]
    assert table["n"].tolist() == [2, 0]


def test_the_lift_pairs_seeds_and_images():
    parts = [
        scores([0.5, 0.7, 0.6]),
        scores([0.1, 0.3, 0.2], pairing="independent student")[::-1],
        scores([0.6, 0.6, 0.6], seed=1),
        scores([0.5, np.nan, 0.4], pairing="independent student", seed=1),
    ]
    row = summarise(pd.concat(parts), 7, "signed").iloc[0]
    assert row["lift"] == pytest.approx(np.mean([0.4, 0.4, 0.1, 0.2]))
    assert row["lift_low"] < row["lift"] < row["lift_high"]
    assert row["independent"] == pytest.approx(np.mean([0.1, 0.2, 0.5, 0.4]))


def test_one_seed_has_a_lift_without_an_interval():
    row = summarise(pd.concat([scores([0.5, 0.7]), scores([0.1, 0.2], pairing="independent student")]), 7, "signed")
    assert row.loc[0, "lift"] == pytest.approx(0.45)
    assert row.loc[0, ["lift_low", "lift_high"]].isna().all()
    assert row.loc[0, ["low", "high"]].notna().all()


def test_the_table_takes_the_first_metric_where_there_is_no_cosine():
    summary = summarise(scores([0.25, 0.75]).assign(metric="ssim"), 7, "signed")
    predictions = pd.DataFrame({"model": ["teacher", "kd/seed0"], "image": "1", "predicted": "a", "correct": True})
    assert method_table(summary, predictions).loc[1, "lrp ssim"] == 0.5


def test_a_method_without_valid_explanations_keeps_its_accuracy():
    models = ["teacher", "kd/seed0", "at/seed0", "untrained"]
    predictions = pd.DataFrame({"model": models, "image": "1", "predicted": "a", "correct": True})
    table = method_table(summarise(scores([0.25, 0.75]), 7, "signed"), predictions).set_index("method")
    assert list(table.index) == ["teacher", "kd", "at"]
    assert table.loc["at", "accuracy"] == 1
    assert np.isnan(table.loc["at", "lrp cosine"])
    assert table["seeds"].isna().tolist() == [True, False, False]


def test_without_an_independent_student_there_is_no_lift():
    summary = summarise(scores([0.25, 0.75]), 7, "signed")
    assert np.isnan(summary["lift"].iloc[0])
    predictions = pd.DataFrame({"model": ["teacher", "kd/seed0"], "image": "1", "predicted": "a", "correct": True})
    assert not [name for name in method_table(summary, predictions) if "lift" in name]


def test_the_table_counts_accuracy_and_agreement():
    predictions = pd.DataFrame(
        [
            (model, image, predicted, predicted == label)
            for model, answers in (("teacher", "aabb"), ("kd/seed0", "aaab"), ("kd/seed1", "bbbb"))
            for image, label, predicted in zip("1234", "aaab", answers)
        ],
        columns=["model", "image", "predicted", "correct"],
    )
    table = method_table(summarise(scores([0.25, 0.75]), 7, "signed"), predictions).set_index("method")
    assert table.loc["teacher", "accuracy"] == 0.75
    assert table.loc["kd", "accuracy"] == pytest.approx((1 + 0.25) / 2)
    assert table.loc["kd", "agreement"] == pytest.approx((0.75 + 0.5) / 2)
    assert table.loc["kd", "lrp cosine"] == 0.5
    assert np.isnan(table.loc["teacher", "agreement"])


@pytest.mark.parametrize("text", ["lrp.cosine=0.6", " lrp.cosine = 0.6"])
def test_a_threshold_is_read(text):
    assert parse_threshold(text, RUN) == Threshold("lrp", "cosine", 0.6)


def test_the_explainer_of_a_threshold_may_have_options():
    assert parse_threshold("ig:steps=20.ssim=0.1", RUN) == Threshold("ig:steps=20", "ssim", 0.1)


@pytest.mark.parametrize("text", ["lrp.cosine", "lrp=0.5", "lrp.cosine=high", "lrp.cosine=nan", ""])
def test_a_malformed_threshold_is_refused(text):
    with pytest.raises(ConfigError, match=r"not of the form EXPLAINER\.METRIC=VALUE"):
        parse_threshold(text, RUN)


def test_unknown_names_in_a_threshold_are_refused():
    with pytest.raises(UnknownNameError, match="unknown metric of this run 'cosin': did you mean 'cosine'"):
        parse_threshold("lrp.cosin=0.5", RUN)
    with pytest.raises(UnknownNameError, match="unknown explainer of this run 'ig'"):
        parse_threshold("ig.cosine=0.5", RUN)


def test_shortfalls_name_method_and_number_and_spare_the_control():
    summary = pd.DataFrame(
        {
            "method": ["student-only", "kd", "subdistill"],
            "explainer": "lrp",
            "metric": "cosine",
            "mean": [0.1, 0.4, np.nan],
        }
    )
    at = Threshold("lrp", "cosine", 0.4)
    assert shortfalls(summary, [at]) == ["subdistill: lrp.cosine is nan, below 0.4"]
    assert shortfalls(summary, [at], "kd") == []
    assert shortfalls(summary, [at], "student-only") == ["student-only: lrp.cosine is 0.100, below 0.4"]
    assert shortfalls(summary, [Threshold("lrp", "cosine", 0.41)], "kd") == ["kd: lrp.cosine is 0.400, below 0.41"]
    with pytest.raises(UnknownNameError, match="did you mean 'kd'"):
        shortfalls(summary, [at], "kdd")
    alone = summary[summary["method"] == "student-only"]
    assert shortfalls(alone, [at]) == ["student-only: lrp.cosine is 0.100, below 0.4"]

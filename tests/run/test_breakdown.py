"""What the means hide: tables of classes, answers and differences against numbers counted by hand."""

import numpy as np
import pandas as pd
import pytest

from xaibench.run.breakdown import class_accuracy, class_scores, departures, method_pairs
from xaibench.run.folder import open_run

IMAGES = ["a0", "a1", "b0", "b1", "b2"]
LABELS = ["cat", "cat", "dog", "dog", "dog"]
ANSWERS = {
    "teacher": ["cat", "cat", "dog", "dog", "cat"],
    "kd/seed0": ["cat", "dog", "dog", "dog", "dog"],
    "kd/seed1": ["cat", "dog", "dog", "cat", "cat"],
    "at:p=1/seed0": ["cat", "cat", "dog", "dog", "cat"],
    "untrained": ["dog"] * 5,
}


@pytest.fixture
def predictions():
    rows = [
        {"model": model, "image": image, "label": label, "predicted": answer, "correct": answer == label}
        for model, answers in ANSWERS.items()
        for image, label, answer in zip(IMAGES, LABELS, answers)
    ]
    return pd.DataFrame(rows)


def scores(values):
    """values: (method, seed) -> a score an image."""
    rows = [
        {"method": method, "seed": seed, "metric": "cosine", "image": image, "value": value}
        for (method, seed), own in values.items()
        for image, value in zip(IMAGES, own)
    ]
    return pd.DataFrame(rows)


def test_accuracy_by_class_is_counted_over_images_and_seeds(predictions):
    table = class_accuracy(predictions)
    assert list(table["class"]) == ["cat", "dog"]
    assert list(table["images"]) == [2, 3]
    assert [name for name in table if not name.endswith((" low", " high"))] == [
        "class",
        "images",
        "teacher",
        "kd",
        "at:p=1",
    ]
    assert list(table["teacher"]) == pytest.approx([1, 2 / 3])
    assert list(table["kd"]) == pytest.approx([1 / 2, 4 / 6])
    assert (table["kd low"] >= 0).all()
    assert (table["kd high"] <= 1).all()


def test_scores_by_class_leave_out_images_that_one_method_lacks(predictions):
    table = class_scores(
        scores({("kd", 0): [0.1, 0.3, 0.5, np.nan, 0.7], ("at:p=1", 0): [0.2, 0.2, 0.4, 0.9, 0.4]}), predictions
    )
    assert list(table["images"]) == [2, 2]
    assert list(table["kd"]) == pytest.approx([0.2, 0.6])
    assert list(table["at:p=1"]) == pytest.approx([0.2, 0.4])
    nothing = class_scores(scores({("kd", 0): [0.1, 0.3, np.nan, np.nan, np.nan]}), predictions)
    assert list(nothing["images"]) == [2, 0]
    assert np.isnan(nothing["kd"][1])


def test_departures_are_shares_of_all_images(predictions):
    table = departures(predictions)
    said = {(row["teacher says"], row["student says"]): (row["kd"], row["at:p=1"]) for row in table.to_dict("records")}
    assert said == {("cat", "dog"): pytest.approx((3 / 10, 0)), ("dog", "cat"): pytest.approx((1 / 10, 0))}
    assert list(table["teacher says"]) == ["cat", "dog"]  # the most frequent first
    alone = predictions[predictions["model"].isin(["teacher", "at:p=1/seed0"])]
    assert departures(alone).empty


def test_departures_and_agreement_make_one(tiny_run):
    run = open_run(tiny_run)
    table = departures(run.predictions())
    agreement = run.table().set_index("method")["agreement"].drop("teacher")
    for method, share in agreement.items():
        assert table[method].sum() + share == pytest.approx(1)


def test_methods_are_compared_on_the_seeds_that_all_have():
    generator = np.random.default_rng(0)
    own = {(m, s): generator.normal(size=5) for m, s in (("kd", 0), ("kd", 1), ("at", 0), ("at", 1), ("vid", 1))}
    table = method_pairs(scores(own)).set_index(["a", "b"])
    assert len(table) == 3
    assert table.loc[("kd", "vid"), "difference"] == pytest.approx((own["kd", 1] - own["vid", 1]).mean())
    assert set(table["n"]) == {5}


def test_methods_without_a_common_seed_are_not_compared():
    table = method_pairs(scores({("kd", 0): [0.1] * 5, ("at", 1): [0.2] * 5}))
    assert table["difference"].isna().all()
    assert list(table["n"]) == [0]

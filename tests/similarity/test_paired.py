"""Paired tests of methods against a slow twin."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata

from xaibench.errors import DataError
from xaibench.similarity.paired import paired_differences
from xaibench.similarity.significance import benjamini_yekutieli, holm


def slow_signed_rank(x):
    """Exact: the share of all 2^n signs whose sum of positive ranks lies as far from the middle."""
    ranks = rankdata(np.abs(x))
    middle = ranks.sum() / 2
    own = abs(ranks[x > 0].sum() - middle)
    sums = [ranks[np.array(signs, dtype=bool)].sum() for signs in product((0, 1), repeat=len(x))]
    return np.mean([abs(s - middle) >= own - 1e-9 for s in sums])


def test_the_p_value_is_that_of_all_signs_with_images_as_the_unit():
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 1, (3, 9)), generator.normal(0, 1, (3, 9))
    (row,) = paired_differences({"a": a, "b": b}).to_dict("records")
    assert row["p"] == row["p_holm"] == pytest.approx(slow_signed_rank((a - b).mean(axis=0)))
    assert row["difference"] == pytest.approx((a - b).mean())
    assert row["low"] < row["difference"] < row["high"]
    assert (row["n"], row["unit"], row["test"]) == (9, "images", "Wilcoxon signed-rank")
    (swapped,) = paired_differences({"b": b, "a": a}).to_dict("records")
    assert swapped["p"] == pytest.approx(row["p"])
    assert swapped["difference"] == pytest.approx(-row["difference"])


def test_all_pairs_share_their_images_and_the_correction():
    scores = {name: np.random.default_rng(i).normal(i / 4, 1, (1, 40)) for i, name in enumerate("abc")}
    scores["a"][0, 0] = np.nan
    table = paired_differences(scores)
    assert list(zip(table["a"], table["b"])) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert set(table["n"]) == {39}
    assert list(table["p_holm"]) == pytest.approx(list(holm(table["p"])))
    assert list(table["p_by"]) == pytest.approx(list(benjamini_yekutieli(table["p"])))


def test_equal_methods_and_methods_without_scores():
    x = np.ones((2, 5))
    (same,) = paired_differences({"a": x, "b": x}).to_dict("records")
    assert (same["p"], same["difference"]) == (1.0, 0.0)
    (none,) = paired_differences({"a": x, "b": x * np.nan}).to_dict("records")
    assert np.isnan([none["p"], none["p_holm"], none["difference"]]).all()
    assert none["n"] == 0
    assert paired_differences({"a": x}).empty
    assert paired_differences({}).empty
    with pytest.raises(DataError, match=r"the same seeds and images \(S, N\), got a \(2, 5\), b \(1, 5\)"):
        paired_differences({"a": x, "b": x[:1]})

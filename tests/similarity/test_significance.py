"""Tests over units against slow twins, independent corrections, and their own level."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, kstest, rankdata

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.significance import (
    benjamini_yekutieli,
    family_table,
    holm,
    least_units,
    power_note,
    rank_sum,
    signed_rank,
)

P = st.lists(st.floats(0, 1), min_size=1, max_size=8)
SMALL = st.lists(st.integers(-5, 5), min_size=1, max_size=8)  # with ties and zeros


def slow_holm(p):
    """Reject one after the other: the corrected p is the level at which a hypothesis is first rejected."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    level, corrected = 0.0, [0.0] * len(p)
    for rank, i in enumerate(order):
        level = max(level, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = level
    return corrected


@given(P)
def test_holm_is_the_step_down_procedure(p):
    corrected = holm(p)
    assert corrected == pytest.approx(slow_holm(p))
    assert (corrected >= np.asarray(p) - 1e-12).all()
    assert (corrected <= np.minimum(1, len(p) * np.asarray(p)) + 1e-12).all()  # never beyond Bonferroni's


@given(P)
def test_benjamini_yekutieli_is_that_of_scipy(p):
    assert benjamini_yekutieli(p) == pytest.approx(false_discovery_control(p, method="by"), abs=1e-12)


@pytest.mark.parametrize("correct", [holm, benjamini_yekutieli])
def test_corrections_leave_out_what_is_undefined(correct):
    assert correct([0.01, np.nan, 0.04])[[0, 2]] == pytest.approx(correct([0.01, 0.04]))
    assert np.isnan(correct([0.01, np.nan, 0.04])[1])
    assert correct([]).shape == (0,)


def every_sign(x, two_sided):
    """Exact: the share of all signs of the differences whose sum of positive ranks lies as far out."""
    x = np.asarray([one for one in x if one], dtype=float)
    ranks = rankdata(np.abs(x))
    middle = ranks.sum() / 2
    own = ranks[x > 0].sum() - middle
    sums = np.array([ranks[np.array(signs, dtype=bool)].sum() for signs in product((0, 1), repeat=len(x))]) - middle
    return np.mean(abs(sums) >= abs(own) - 1e-9) if two_sided else np.mean(sums >= own - 1e-9)


@settings(deadline=None, max_examples=30)
@given(SMALL, st.booleans())
def test_the_signed_rank_test_is_exact_with_ties_and_without_zeros(x, two_sided):
    alternative = "two-sided" if two_sided else "greater"
    found = signed_rank(x, alternative=alternative)
    assert found.p == pytest.approx(every_sign(x, two_sided) if any(x) else 1)
    assert found.n == len(x)
    assert signed_rank([*x, np.nan], alternative=alternative) == found
    opposite = signed_rank([-one for one in x])
    assert found.effect == pytest.approx(-opposite.effect)


def test_effects_have_their_ends_and_their_middle():
    assert signed_rank([1, 2, 3]).effect == 1
    assert signed_rank([-1, -2, -3]).effect == -1
    assert signed_rank([1, 2, -3]).effect == 0
    assert signed_rank([0.0, 0.0]).p == 1
    assert rank_sum([3, 4], [1, 2, 2.5]).effect == 1
    assert rank_sum([3, 1], [2, 2]).effect == 0


def every_split(a, b):
    """Exact: the share of all splits of the values in two groups whose first has as large a sum of ranks."""
    ranks = rankdata([*a, *b])
    own = ranks[: len(a)].sum()
    return np.mean([ranks[list(first)].sum() >= own - 1e-9 for first in combinations(range(len(ranks)), len(a))])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_the_rank_sum_test_is_exact_for_few_units(a, b):
    found = rank_sum(a, b)
    assert found.p == pytest.approx(every_split(a, b))
    wins = np.sign(np.subtract.outer(a, b)).mean()
    assert found.effect == pytest.approx(wins)
    assert rank_sum([*a, np.nan], b) == found
    assert found.n == min(len(a), len(b))


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    paired = [signed_rank(rng.normal(size=30)).p for _ in range(400)]
    apart = [rank_sum(rng.normal(size=15), rng.normal(size=25)).p for _ in range(400)]
    assert kstest(paired, "uniform").pvalue > 0.01
    assert kstest(apart, "uniform").pvalue > 0.01


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("correction", ["holm", "by"])
@settings(deadline=None, max_examples=30)
@given(family=st.integers(1, 30))
def test_the_least_units_are_just_enough(correction, paired, family):
    def corrected(n):
        unlike = np.arange(n) + 1.0
        best = signed_rank(unlike) if paired else rank_sum(unlike + n, unlike)
        return {"holm": holm, "by": benjamini_yekutieli}[correction]([best.p, *[1.0] * (family - 1)])[0]

    n = least_units(family, correction, paired=paired)
    assert corrected(n) < 0.05 <= corrected(n - 1)


def test_a_family_names_its_tests_and_what_they_can_reach():
    wins = signed_rank(np.arange(6) + 1.0)
    table = family_table({("a", "b"): wins, ("a", "c"): wins, ("b", "c"): signed_rank([])}, unit="seeds")
    assert list(table.columns) == ["test", "unit", "n", "p", "p_holm", "p_by", "effect", "reachable", "significant"]
    assert list(table.index) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(table["p_holm"]) == pytest.approx([2 / 64, 2 / 64, np.nan], nan_ok=True)
    assert list(table["p_by"]) == pytest.approx([1.5 / 64, 1.5 / 64, np.nan], nan_ok=True)
    assert list(table["reachable"]) == list(table["significant"]) == [True, True, False]
    assert set(table["unit"]) == {"seeds"}
    assert family_table({}, unit="seeds").empty


def test_nothing_is_significant_that_few_units_cannot_reach():
    wins = {i: signed_rank(np.arange(6) + 1.0) for i in range(3)}  # together they pass, one alone could not
    table = family_table(wins, unit="seeds")
    assert (table["p_by"] < 0.05).all()
    assert not table["reachable"].any()
    assert not table["significant"].any()
    assert power_note(table) == (
        "With 6 seeds no difference can be significant by itself at 0.05 (Benjamini-Yekutieli, 3 tests), however large "
        "it is: that takes 7 seeds at least."
    )
    alone = family_table(wins, unit="seeds", correction="holm")
    assert alone["significant"].all()
    assert power_note(alone, correction="holm") == ""


def test_the_power_note_speaks_of_one_unit_and_of_groups():
    one = family_table({"x": signed_rank([0.3])}, unit="subtasks")
    assert power_note(one).startswith("With 1 subtask no difference")
    assert power_note(one).endswith(
        "(Benjamini-Yekutieli, one test), however large it is: that takes 5 subtasks at least."
    )
    groups = family_table({"x": rank_sum([1, 2], [3, 4, 5])}, unit="seeds")
    assert power_note(groups).startswith("With 2 seeds a group")
    assert power_note(groups).endswith("that takes 4 seeds a group at least.")


def test_bad_input():
    with pytest.raises(DataError, match=r"one finite number a unit, \(n,\), NaN allowed, got shape \(1, 2\)"):
        signed_rank([[1, 2]])
    with pytest.raises(DataError, match="infinite values"):
        rank_sum([np.inf], [1])
    with pytest.raises(DataError, match="alternative must be one of 'greater', 'two-sided', got 'less'"):
        signed_rank([1.0], alternative="less")
    with pytest.raises(ConfigError, match="lies between 0 and 1, got 5"):
        family_table({}, unit="seeds", level=5)
    with pytest.raises(ConfigError, match="1 to 1000000, got 0"):
        least_units(0)
    with pytest.raises(ConfigError, match="one of 'holm', 'by', got 'bonferroni'"):
        least_units(3, "bonferroni")


def test_two_sided_tests_take_as_many_units_as_the_note_says():
    def family(n):
        tests = {name: signed_rank(np.ones(n) * np.arange(1, n + 1), alternative="two-sided") for name in "abc"}
        return family_table(tests, unit="seeds")

    needed = least_units(3, alternative="two-sided")
    assert needed == 8
    assert not family(needed - 1)["reachable"].any()
    assert "that takes 8 seeds at least" in power_note(family(needed - 1), alternative="two-sided")
    assert family(needed)["reachable"].all()
    assert power_note(family(needed), alternative="two-sided") == ""

"""Transfer of knowledge: what it is by hand, what it finds in worlds where it is known, and its false alarms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import one_hot

from benchmarks.transfer_worlds import LESS, measured, world
from xaibench.errors import DataError
from xaibench.similarity.significance import signed_rank
from xaibench.similarity.transfer import transfer, transfer_summary, transfer_table, transfer_tests


def answers(*classes: int) -> torch.Tensor:
    return one_hot(torch.tensor(classes), 3).double()


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
TEACHER = answers(0, 0, 1, 2, 2, 0)  # right on images 0, 1, 2, 4


def test_it_is_its_formula() -> None:
    student, control = answers(0, 0, 1, 2, 1, 1), answers(0, 1, 1, 1, 1, 0)
    one = transfer(TEACHER, student, control, LABELS)
    assert (one.right, one.wrong) == (4, 2)
    assert (one.agreement_right, one.agreement_wrong, one.control_right, one.control_wrong) == (
        3 / 4,
        1 / 2,
        2 / 4,
        1 / 2,
    )
    assert (one.gain_right, one.gain_wrong, one.tau_right, one.tau_wrong) == (1 / 4, 0, 1 / 2, 0)
    probabilities = [5 * torch.log(0.9 * x + 0.1 / 3) for x in (TEACHER, student, control)]  # logits do as well
    assert transfer(*probabilities, LABELS) == one


def test_identical_models_have_taken_over_everything_and_the_control_nothing() -> None:
    control = answers(0, 1, 1, 1, 1, 0)
    same = transfer(TEACHER, TEACHER, control, LABELS)
    assert same.agreement_right == same.agreement_wrong == same.tau_right == same.tau_wrong == 1
    alike = transfer(TEACHER, control, control, LABELS)
    assert alike.tau_right == alike.tau_wrong == 0


def test_without_room_or_without_mistakes_it_is_undefined() -> None:
    full = transfer(TEACHER, TEACHER, TEACHER, LABELS)
    assert np.isnan([full.tau_right, full.tau_wrong]).all()
    assert full.gain_right == 0
    faultless = transfer(answers(*LABELS), TEACHER, TEACHER, LABELS)
    assert faultless.wrong == 0
    assert np.isnan([faultless.agreement_wrong, faultless.gain_wrong, faultless.tau_wrong]).all()


def test_the_summary_tests_over_seeds_and_shows_the_raw_asymmetry_last() -> None:
    table = transfer_table(*world(0, 0.3, 0.5, seeds=7))
    assert list(table.columns[:8]) == ["A+", "A-", "control A+", "control A-", "D+", "D-", "tau+", "tau-"]
    summary = transfer_summary({"kd": table, "at": table.head(1)}).set_index(["method", "quantity"])
    kd = summary.loc["kd"]
    assert list(kd.index) == ["tau+", "tau-", "tau- - tau+", "D- - D+ (raw)"]
    assert kd.loc["tau- - tau+", "mean"] == pytest.approx((table["tau-"] - table["tau+"]).mean())
    assert set(kd["speaks_for"]) == {"other training seeds"}
    assert set(kd["wrong"]) == {table["wrong"].iloc[0]}
    tested = kd.iloc[:3]
    assert set(tested["p"]) == {2**-7}
    assert list(tested["p_holm"]) == pytest.approx([6 / 2**7] * 3)
    assert (kd["low"] < kd["mean"]).all()
    assert np.isnan(kd.loc["D- - D+ (raw)", "p"])
    assert not kd["significant"].any()  # one of six tests over 7 seeds cannot be, after Benjamini-Yekutieli
    assert list(transfer_summary({"kd": table})["significant"]) == [True, True, True, False]
    one = summary.loc["at"]
    assert set(one["speaks_for"]) == {"this student"}
    assert one["low"].isna().all()
    assert not one["reachable"].any()


def test_wrong_knowledge_is_handed_on_more_only_where_it_is_handed_on() -> None:
    seeds = 0.01 * np.arange(11)

    def p(right: np.ndarray, wrong: np.ndarray) -> list[float]:
        return [test.p for test in transfer_tests(right, wrong).values()]

    assert p(0.3 + seeds, 0.6 - seeds) == [2**-11] * 3
    assert p(0.8 + seeds, 0.6 - seeds) == [2**-11, 2**-11, 1]  # less of it than of right
    some = 0.05 - seeds  # of both signs
    assert p(some, some + 1) == [signed_rank(some).p, 2**-11, 2**-11]
    assert p(some - 0.3, some) == [1, 1, 1]  # nothing handed on, and less skilled than the control
    assert p(some - 0.3, some + 0.3) == [1, 1, 1]  # nor is it where its own mistakes are the teacher's
    table = pd.DataFrame({"tau+": seeds - 0.7, "tau-": -0.1 - seeds, "D+": seeds, "D-": seeds, "wrong": 82})
    assert not transfer_summary({"random-control[kd]": table})["significant"].any()


def test_outputs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="use the same images and classes"):
        transfer(TEACHER, TEACHER[:3], TEACHER, LABELS)
    with pytest.raises(DataError, match="labels of shape"):
        transfer(TEACHER, TEACHER, TEACHER, LABELS[:3])
    with pytest.raises(DataError, match="2 students but 1 controls: give each seed's own control"):
        transfer_table(TEACHER, [TEACHER] * 2, [TEACHER], LABELS)
    with pytest.raises(DataError, match=r"2 values of tau\+ but 3 of tau-: give both of every seed"):
        transfer_tests([0.1, 0.2], [0.1, 0.2, 0.3])


@pytest.fixture(scope="module")
def equal() -> pd.DataFrame:
    return measured(100, 0.3, 0.3, 2000)


@pytest.mark.parametrize(("right", "wrong"), [(0.0, 0.0), (0.2, 0.6)])
def test_known_transfer_is_recovered(right: float, wrong: float) -> None:
    found = measured(12, right, wrong, 4000).groupby("seeds").mean().loc[10]
    assert found["tau+"] == pytest.approx(right, abs=0.015)
    assert found["tau-"] == pytest.approx(wrong, abs=0.015)


def test_equal_transfer_seldom_alarms_but_the_raw_asymmetry_always_does(equal: pd.DataFrame) -> None:
    for _, part in equal.groupby("seeds"):
        alarms, bound = (part["p"] < 0.05).mean(), 0.05 + 3 * (0.05 * 0.95 / 100) ** 0.5
        assert alarms <= bound
        assert (part["raw p"] < 0.05).mean() > 0.9


def test_less_skilled_students_do_not_alarm() -> None:
    part = measured(20, 0, 0, 2000, skill=LESS)
    assert part["tau+"].mean() < 0 < part["tau-"].mean()  # its mistakes are the teacher's: images are shared
    assert not (part["p"] < 0.05).any()
    assert (part["bare p"] < 0.05).all()  # what the condition on tau+ is for


def test_unequal_transfer_is_found() -> None:
    part = measured(30, 0.3, 0.4, 4000).groupby("seeds")
    assert part["p"].apply(lambda p: (p < 0.05).mean()).loc[10] > 0.9


def test_what_has_no_value_is_not_tested() -> None:
    """Less skilled than the control, of a teacher that is never wrong: one test, not three."""
    found = transfer_tests([-0.2, -0.25, -0.22, -0.21, -0.2], [float("nan")] * 5)
    assert found["tau+"].n == 5
    assert np.isnan(found["tau-"].p)
    assert np.isnan(found["tau- - tau+"].p)

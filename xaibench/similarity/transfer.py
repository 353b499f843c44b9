"""How much of what a teacher knows, rightly and wrongly, a student has taken over (after arXiv 2510.12615).

Our reconstruction: the paper's exact formula could not be read. With y_T, y_S, y_C the answers of the teacher, of a
student and of a control of the same seed that saw no teacher (SIDDO: the same initialisation, another order of the
data),

    A+ = P(y_S = y_T | y_T right),  A- = P(y_S = y_T | y_T wrong),  D+- = A+-(student) - A+-(control)
    tau+- = D+- / (1 - A+-(control))

A student that copies the teacher with probability tau, and else answers as the control would, has A = tau + (1 - tau)
A(control): tau, the transfer normalised by its ceiling, is recovered. The raw asymmetry D- - D+ is no measure of wrong
knowledge: A+ of the control is near its ceiling already, so that equal transfer of both kinds makes it positive.

Tau is no transfer where a student is less skilled than its control (tau+ below 0), as one whose teacher knows nothing:
its mistakes are more, some of them the teacher's own, and tau- lies above tau+ though nothing was copied. So wrong
knowledge is not said to be handed on there, see `transfer_tests`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from xaibench.errors import DataError
from xaibench.similarity.intervals import seed_interval
from xaibench.similarity.predictions import accuracy, agreement
from xaibench.similarity.significance import Correction, RankTest, family_table, signed_rank
from xaibench.validation import checked

__all__ = [
    "ASYMMETRY_WARNING",
    "Transfer",
    "transfer",
    "transfer_summary",
    "transfer_table",
    "transfer_tests",
]

ASYMMETRY_WARNING = (
    "The raw asymmetry D- - D+ is positive from the ceiling of A+ alone, where both transfers are equal."
)

_RAW = "D- - D+ (raw)"


@dataclass(frozen=True)
class Transfer:
    """What one student took over from its teacher; NaN where the teacher is never right, or never wrong.

    agreement_right, agreement_wrong  A+ and A- of the student
    control_right, control_wrong      those of the control
    right, wrong                      images on which they rest: the teacher's right and wrong answers
    """

    agreement_right: float
    agreement_wrong: float
    control_right: float
    control_wrong: float
    right: int
    wrong: int

    @property
    def gain_right(self) -> float:
        """D+ = A+(student) - A+(control)."""
        return self.agreement_right - self.control_right

    @property
    def gain_wrong(self) -> float:
        """D- = A-(student) - A-(control)."""
        return self.agreement_wrong - self.control_wrong

    @property
    def tau_right(self) -> float:
        """tau+, at most 1; below 0 where the student is less like the teacher than the control is."""
        return _normalised(self.gain_right, self.control_right)

    @property
    def tau_wrong(self) -> float:
        """tau-, as tau+."""
        return _normalised(self.gain_wrong, self.control_wrong)


@checked(error=DataError)
def transfer(teacher: Tensor, student: Tensor, control: Tensor, labels: Tensor) -> Transfer:
    """The transfer of right and wrong knowledge to one student; logits or probabilities (N, K), labels (N,).

    control  of the student's seed, trained without the teacher: SIDDO

    Raises DataError for outputs of different images or classes.
    """
    accuracy(teacher, labels)  # refuses labels that do not fit
    right = teacher.argmax(dim=1) == labels

    def shared(model: Tensor, kind: Tensor) -> float:
        agreement(teacher, model)  # refuses outputs that do not fit
        return agreement(teacher[kind], model[kind]) if bool(kind.any()) else float("nan")

    return Transfer(
        agreement_right=shared(student, right),
        agreement_wrong=shared(student, ~right),
        control_right=shared(control, right),
        control_wrong=shared(control, ~right),
        right=int(right.sum()),
        wrong=int((~right).sum()),
    )


@checked(error=DataError)
def transfer_table(
    teacher: Tensor, students: Sequence[Tensor], controls: Sequence[Tensor], labels: Tensor
) -> pd.DataFrame:
    """One row a seed: A+, A-, control A+, control A-, D+, D-, tau+, tau-, right, wrong; see `transfer`.

    students, controls  outputs (N, K) of each seed, in the same order of seeds
    """
    if len(students) != len(controls):
        raise DataError(f"{len(students)} students but {len(controls)} controls: give each seed's own control")
    rows = []
    for student, control in zip(students, controls):
        one = transfer(teacher, student, control, labels)
        row = {"A+": one.agreement_right, "A-": one.agreement_wrong}
        row |= {"control A+": one.control_right, "control A-": one.control_wrong}
        row |= {"D+": one.gain_right, "D-": one.gain_wrong, "tau+": one.tau_right, "tau-": one.tau_wrong}
        rows.append(row | {"right": one.right, "wrong": one.wrong})
    return pd.DataFrame(rows)


@checked(error=DataError)
def transfer_tests(tau_right: npt.ArrayLike, tau_wrong: npt.ArrayLike) -> dict[str, RankTest]:
    """Tests of "tau+" > 0, "tau-" > 0 and "tau- - tau+" > 0; (n,) over seeds.

    Wilcoxon's signed-rank tests. That wrong knowledge is handed on *more* needs that it is handed on at all: the p of
    tau- - tau+ is the larger one of its own and that of tau- (an intersection-union test, which holds its level). Where
    the 95% interval of tau+ lies below 0, the student being less skilled than its control, the p of the last two is 1.

    Raises DataError where there are not as many of one as of the other.
    """
    copied, handed_on = signed_rank(tau_right), signed_rank(tau_wrong)  # which refuse what are no numbers
    right, wrong = np.asarray(tau_right), np.asarray(tau_wrong)
    if right.shape != wrong.shape:
        raise DataError(f"{right.size} values of tau+ but {wrong.size} of tau-: give both of every seed")
    more = signed_rank(wrong - right)
    p = 1.0 if handed_on.n and seed_interval(right).high < 0 else handed_on.p
    return {
        "tau+": copied,
        "tau-": replace(handed_on, p=p),
        "tau- - tau+": replace(more, p=max(p, more.p)),
    }


@checked
def transfer_summary(
    tables: Mapping[str, pd.DataFrame], *, correction: Correction = "by", level: float = 0.05
) -> pd.DataFrame:
    """Over the seeds of each method: tau+, tau-, tau- - tau+ (the headline), and after them the raw D- - D+.

    tables  method -> its `transfer_table`

    Columns method, quantity, mean, low, high (t interval over seeds), speaks_for, wrong (images on which A- rests), and
    those of `family_table`: of `transfer_tests`, all methods and quantities being one family. The raw asymmetry is not
    tested (`ASYMMETRY_WARNING`).
    """
    rows, tests = [], dict[tuple[str, str], RankTest]()
    for method, table in tables.items():
        if missing := {"tau+", "tau-", "D+", "D-", "wrong"} - set(table.columns):
            raise DataError(f"the table of {method} has no column '{min(missing)}': give one of transfer_table")
        quantities = {"tau+": table["tau+"], "tau-": table["tau-"], "tau- - tau+": table["tau-"] - table["tau+"]}
        for name, values in {**quantities, _RAW: table["D-"] - table["D+"]}.items():
            one = seed_interval(values)
            row = {"method": method, "quantity": name, "mean": one.mean, "low": one.low, "high": one.high}
            rows.append(row | {"speaks_for": one.speaks_for, "wrong": int(table["wrong"].min())})
        tests |= {(method, name): test for name, test in transfer_tests(table["tau+"], table["tau-"]).items()}
    family = family_table(tests, unit="seeds", correction=correction, level=level)
    summary = pd.DataFrame(rows, columns=["method", "quantity", "mean", "low", "high", "speaks_for", "wrong"])
    places = {key: place for place, key in enumerate(tests)}
    chosen = [places.get(key, -1) for key in zip(summary["method"], summary["quantity"])]
    tested = family.reset_index(drop=True).reindex(chosen).reset_index(drop=True)
    for name in ("reachable", "significant"):
        tested[name] = tested[name].eq(True)
    return summary.join(tested)


def _normalised(gain: float, control: float) -> float:
    return gain / (1 - control) if control < 1 else float("nan")

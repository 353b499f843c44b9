"""The benchmark of wrong labels: its measures by hand, and a small run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.flipped_labels import SHARE, area, found, tasks


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    wrong = np.array([True, False, True, False])
    assert area(np.array([2.0, 1.0, 4.0, 3.0]), wrong) == 3 / 4
    assert area(np.array([1.0, 1.0, 1.0, 1.0]), wrong) == 1 / 2


def test_wrong_labels_are_those_that_were_changed() -> None:
    task, wrong = tasks(0)
    assert len(task.train) == 1000
    assert wrong.sum() == SHARE * len(task.train)


@pytest.mark.slow
def test_a_small_run_gives_both_numbers() -> None:
    weight, by_rank = found(seed=0, after=1, images=100)
    assert weight == pytest.approx(1, abs=0.5)
    assert 0 <= by_rank <= 1

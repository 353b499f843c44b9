from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import UnknownNameError
from xaibench.similarity.metrics.transport import PARTS, emd, transport_negative, transport_positive

quick = settings(deadline=None, max_examples=20)


def spot(row: int, column: int, height: int = 5, width: int = 9) -> np.ndarray:
    maps = np.zeros((1, height, width))
    maps[0, row, column] = 2.0
    return maps


def test_a_spot_moves_as_far_as_it_is_away() -> None:
    diagonal = np.hypot(4, 8)
    assert emd(spot(0, 0), spot(4, 8))[0] == 1
    assert emd(spot(0, 0), spot(0, 3))[0] == pytest.approx(3 / diagonal)
    assert emd(-spot(1, 1), -spot(4, 5), "negative")[0] == pytest.approx(5 / diagonal)
    both = spot(0, 0) + spot(4, 8)
    assert emd(spot(0, 0), both)[0] == pytest.approx(0.5)


def test_signs_are_told_apart_and_a_missing_one_is_undefined() -> None:
    a, b = spot(0, 0) - spot(2, 2), spot(0, 0) - spot(2, 6)
    assert transport_positive(a, b)[0] == 1
    assert transport_negative(a, b)[0] == pytest.approx(1 - 4 / np.hypot(4, 8))
    assert np.isnan(transport_negative(a, spot(0, 0)))
    assert np.isnan(transport_positive(-spot(0, 0), -spot(0, 0)))


@given(seed=st.integers(0, 2**31))
@quick
def test_it_is_a_distance(seed: int) -> None:
    a, b, c = np.random.default_rng(seed).standard_normal((3, 2, 4, 4))
    for part in PARTS:
        assert (emd(a, a, part) == 0).all()
        assert (emd(a, b, part) > 0).all()
        assert (emd(a, c, part) <= emd(a, b, part) + emd(b, c, part) + 1e-12).all()
    np.testing.assert_array_equal(emd(a, b, "negative"), emd(-a, -b, "positive"))


@given(seed=st.integers(0, 2**31), exponent=st.integers(-16, -3))
@quick
def test_nearly_equal_maps_are_nearly_at_distance_zero(seed: int, exponent: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 3, 6, 6))
    assert (emd(a, a + 10.0**exponent * b) <= 10.0**exponent).all()


def test_unknown_part() -> None:
    with pytest.raises(UnknownNameError, match="unknown part of a map 'pos': did you mean 'positive'"):
        emd(spot(0, 0), spot(0, 0), "pos")

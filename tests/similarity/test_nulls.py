from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import DataError
from xaibench.similarity.nulls import derangement, shifted


@given(n=st.integers(2, 60), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_a_derangement_uses_each_image_once_and_never_its_own(n: int, seed: int) -> None:
    partner = derangement(n, seed)
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()
    np.testing.assert_array_equal(derangement(n, seed), partner)


def test_all_partners_are_equally_likely() -> None:
    counts = np.bincount([derangement(5, seed)[0] for seed in range(1000)], minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 250) < 60).all()


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_image_has_no_partner(n: int) -> None:
    with pytest.raises(DataError, match=f"at least 2 images, got {n}"):
        derangement(n)


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_shifted_maps_keep_their_cells_and_their_neighbours(seed: int) -> None:
    maps = np.random.default_rng(seed).standard_normal((3, 4, 6))
    moved = shifted(maps, seed)
    np.testing.assert_array_equal(np.sort(moved.reshape(3, -1)), np.sort(maps.reshape(3, -1)))
    for one, other in zip(maps, moved):  # the spectrum of a cyclic shift and mirroring
        spectra = (np.sort(np.abs(np.fft.fft2(m)).ravel()) for m in (one, other))
        np.testing.assert_allclose(*spectra, atol=1e-9)
    np.testing.assert_array_equal(shifted(maps[:2], seed), moved[:2])


def test_every_shift_is_equally_likely() -> None:
    one = np.zeros((3000, 3, 4))
    one[:, 0, 0] = 1
    counts = shifted(one).sum(axis=0)
    assert np.abs(counts - 250).max() < 65

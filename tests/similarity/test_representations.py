from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.errors import DataError
from xaibench.similarity.representations import linear_cka


def features(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(a: Tensor, b: Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with explicitly centred kernels."""
    n = len(a)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, m = (centre @ x.numpy() @ x.numpy().T @ centre for x in (a, b))
    return float(np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def test_golden_value(golden: Path) -> None:
    arrays = np.load(golden / "similarity.npz")
    expected = json.loads((golden / "similarity.json").read_text())["linear_cka"]
    got = linear_cka(torch.from_numpy(arrays["features_a"]), torch.from_numpy(arrays["features_b"]))
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "d", "k"), [(30, 5, 8), (6, 20, 3), (10, 10, 10)])
def test_both_forms_equal_the_twin(n: int, d: int, k: int) -> None:
    a, b = features(0, n, d), features(1, n, k)
    assert linear_cka(a, b) == pytest.approx(twin(a, b), rel=1e-10)


@given(seed=st.integers(0, 2**31), wide=st.booleans())
@settings(deadline=None, max_examples=15)
def test_rotation_scale_and_shift_do_not_matter(seed: int, wide: bool) -> None:
    a = features(seed, 6 if wide else 30, 8)
    rotation = torch.linalg.qr(features(seed + 1, 8, 8)).Q
    assert linear_cka(a, 3 * a @ rotation + 5) == pytest.approx(1, rel=1e-10)
    b = features(seed + 2, len(a), 4)
    assert linear_cka(a @ rotation, b) == pytest.approx(linear_cka(a, b), rel=1e-9)
    assert linear_cka(b, a) == pytest.approx(linear_cka(a, b), rel=1e-9)
    assert 0 <= linear_cka(a, b) <= 1


def test_maps_are_flattened_in_float64() -> None:
    a = torch.randn(7, 3, 4, 4)
    assert linear_cka(a, a.flatten(1)) == pytest.approx(1, rel=1e-12)
    assert linear_cka(a.half() * 100, a.half()) == pytest.approx(1, rel=1e-3)


def test_constant_features_are_undefined() -> None:
    a = features(0, 9, 3)
    assert math.isnan(linear_cka(a, torch.full((9, 3), 0.1)))
    assert math.isnan(linear_cka(a, torch.zeros(9, 3)))


def test_bad_input() -> None:
    a = features(0, 9, 3)
    with pytest.raises(DataError, match="of 9 and 8 samples"):
        linear_cka(a, a[:8])
    with pytest.raises(DataError, match=r"got \(1, 3\)"):
        linear_cka(a[:1], a[:1])
    with pytest.raises(DataError, match="NaN or infinite"):
        linear_cka(a, a * float("nan"))

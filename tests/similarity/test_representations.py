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

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.representations import (
    distance_correlation,
    feature_similarity_score,
    linear_cka,
    relevant_part,
)


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


def distance_twin(a: Tensor, b: Tensor, corrected: bool) -> float:
    """Székely's definitions, entry by entry."""
    n = len(a)
    centred = []
    for x in (a.numpy(), b.numpy()):
        d = np.array([[np.linalg.norm(one - other) for other in x] for one in x])
        c = np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                if corrected:
                    sums = (d[i].sum() + d[:, j].sum()) / (n - 2)
                    c[i, j] = 0 if i == j else d[i, j] - sums + d.sum() / ((n - 1) * (n - 2))
                else:
                    c[i, j] = d[i, j] - d[i].mean() - d[:, j].mean() + d.mean()
        centred.append(c)
    k, m = centred
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


def test_golden_distance_correlation(golden: Path) -> None:
    arrays = np.load(golden / "similarity.npz")
    expected = json.loads((golden / "similarity.json").read_text())["distance_correlation_rows_l2_normalised"]
    a, b = (torch.from_numpy(arrays[name]) for name in ("features_a", "features_b"))
    # The public code adds 1e-12 under the root of each squared distance and 1e-9 under that of the denominator.
    assert distance_correlation(a, b, unit_rows=True) == pytest.approx(expected, rel=1e-6)
    assert feature_similarity_score(a, b) == distance_correlation(a, b, unit_rows=True)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("n", "d", "k"), [(15, 4, 7), (5, 20, 3)])
def test_distance_correlation_equals_its_twin(n: int, d: int, k: int, corrected: bool) -> None:
    a, b = features(0, n, d), features(1, n, k)
    got = distance_correlation(a, b, corrected=corrected)
    assert got == pytest.approx(distance_twin(a, b, corrected), rel=1e-9)


@given(seed=st.integers(0, 2**31), corrected=st.booleans())
@settings(deadline=None, max_examples=15)
def test_distance_correlation_sees_no_rotation_scale_or_shift(seed: int, corrected: bool) -> None:
    a, b = features(seed, 12, 6), features(seed + 2, 12, 4)
    rotation = torch.linalg.qr(features(seed + 1, 6, 6)).Q
    same = 3 * a @ rotation + 5
    assert distance_correlation(a, same, corrected=corrected) == pytest.approx(1, rel=1e-10)
    assert distance_correlation(a, 3 * a @ rotation, unit_rows=True) == pytest.approx(1, rel=1e-9)
    score = distance_correlation(a, b, corrected=corrected)
    assert distance_correlation(same, b, corrected=corrected) == pytest.approx(score, rel=1e-9)
    assert distance_correlation(b, a, corrected=corrected) == pytest.approx(score, rel=1e-9)
    assert -1e-12 <= distance_correlation(a, b) <= 1


def test_only_the_corrected_form_is_0_on_average_for_many_independent_features() -> None:
    pairs = [(features(2 * i, 20, 500), features(2 * i + 1, 20, 500)) for i in range(20)]
    corrected = [distance_correlation(a, b, corrected=True) for a, b in pairs]
    assert abs(np.mean(corrected)) < 3 * np.std(corrected, ddof=1) / math.sqrt(20)
    assert np.mean([distance_correlation(a, b) for a, b in pairs]) > 0.9


def test_undefined_distance_correlations() -> None:
    a = features(0, 9, 3)
    assert math.isnan(distance_correlation(a, torch.full((9, 3), 0.1)))
    assert math.isnan(distance_correlation(a, torch.zeros(9, 3), unit_rows=True))
    with pytest.raises(DataError, match="of 9 and 8 samples: distance correlation needs"):
        distance_correlation(a, a[:8])
    with pytest.raises(DataError, match="at least 4 samples, got 3"):
        distance_correlation(a[:3], a[:3], corrected=True)


def test_the_relevant_part_keeps_the_most_relevant_pixels() -> None:
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    heat = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    part = relevant_part(x, heat, 0.25)
    same = (part == x).all(dim=1).flatten(1)
    assert same.sum(dim=1).tolist() == [16] * 3
    for row in range(3):
        assert set(same[row].nonzero().flatten().tolist()) == set(heat[row].flatten().topk(16).indices.tolist())
    assert torch.equal(relevant_part(x, heat, 1.0), x)
    flat = torch.full((3, 2, 8, 8), 0.5)
    torch.testing.assert_close(relevant_part(flat, heat), flat)


def test_coarse_relevance_is_brought_to_the_images_size() -> None:
    x = torch.randn(1, 1, 8, 8)
    heat = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    kept = (relevant_part(x, heat, 0.25) == x)[0, 0]
    assert bool(kept[0, 0])
    assert not bool(kept[4:].any() or kept[:, 4:].any())


def test_bad_relevant_parts() -> None:
    with pytest.raises(DataError, match=r"give \(N, C, H, W\) and \(N, h, w\) of the same images"):
        relevant_part(torch.zeros(2, 1, 4, 4), torch.zeros(3, 4, 4))
    with pytest.raises(ConfigError, match="above 0 and at most 1, got 0"):
        relevant_part(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4), 0)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binned_statistic
from sklearn import metrics
from sklearn.calibration import calibration_curve
from torch import Tensor

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.predictions import (
    accuracy,
    activation_distance,
    agreement,
    calibration_error,
    disagreement,
    functional_comparison,
    jensen_shannon,
    log_loss,
    probabilities,
    reliability,
)


def rows(seed: int, n: int = 20, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p, q = probabilities(3 * torch.randn(2 * n, k, generator=generator)).split(n)
    return p, q, torch.randint(0, k, (n,), generator=generator)


def twin_calibration(p: Tensor, labels: Tensor, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        members = [i for i in range(len(p)) if b / bins < float(p[i].max()) <= (b + 1) / bins]
        if members:
            right = sum(int(p[i].argmax()) == int(labels[i]) for i in members) / len(members)
            total += len(members) / len(p) * abs(right - sum(float(p[i].max()) for i in members) / len(members))
    return total


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_equal_their_slow_twins(seed: int) -> None:
    p, q, labels = rows(seed)
    same = [int(a.argmax()) == int(b.argmax()) for a, b in zip(p, q)]
    assert agreement(p, q) == pytest.approx(sum(same) / 20)
    assert disagreement(p, q) == pytest.approx(1 - sum(same) / 20)
    assert accuracy(p, labels) == pytest.approx(sum(int(a.argmax()) == int(y) for a, y in zip(p, labels)) / 20)
    distance = sum(math.dist(a.tolist(), b.tolist()) for a, b in zip(p, q)) / 20
    assert activation_distance(p, q) == pytest.approx(distance, rel=1e-12)
    oracle = sum(jensenshannon(a.numpy(), b.numpy()) ** 2 for a, b in zip(p, q)) / 20
    assert jensen_shannon(p, q) == pytest.approx(oracle, rel=1e-9)
    assert calibration_error(p, labels) == pytest.approx(twin_calibration(p, labels, 15), rel=1e-12)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_equal_independent_libraries(seed: int) -> None:
    p, q, labels = rows(seed, n=200)
    assert log_loss(p, labels) == pytest.approx(metrics.log_loss(labels, p, labels=range(4)), rel=1e-9)
    assert accuracy(p, labels) == pytest.approx(metrics.accuracy_score(labels, p.argmax(dim=1)), rel=1e-9)
    assert disagreement(p, q) == pytest.approx(metrics.zero_one_loss(p.argmax(dim=1), q.argmax(dim=1)), abs=1e-9)
    distances = metrics.pairwise.paired_euclidean_distances(p, q)
    assert activation_distance(p, q) == pytest.approx(distances.mean(), rel=1e-9)
    sure, predicted = p.max(dim=1)
    shares, means = calibration_curve(predicted == labels, sure, n_bins=15)
    curve = reliability(p, labels)
    filled = curve[curve["count"] > 0]
    assert filled["accuracy"].tolist() == pytest.approx(shares.tolist(), rel=1e-9)
    assert filled["confidence"].tolist() == pytest.approx(means.tolist(), rel=1e-9)
    counts = binned_statistic(sure, sure, "count", bins=15, range=(0, 1)).statistic
    assert curve["count"].tolist() == counts.tolist()
    ece = (filled["count"] / 200 * abs(shares - means)).sum()
    assert calibration_error(p, labels) == pytest.approx(ece, rel=1e-9)


@given(seed=st.integers(0, 2**31), scale=st.floats(0, 50))
@settings(deadline=None, max_examples=30)
def test_the_divergence_is_symmetric_and_bounded(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (probabilities(scale * torch.randn(5, 3, generator=generator)) for _ in range(2))
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert 0 <= jensen_shannon(p, q) <= math.log(2) + 1e-12
    assert jensen_shannon(p, p) == 0


def test_a_row_holds_all_measures_of_a_student() -> None:
    p, q, labels = rows(3)
    row = functional_comparison(p, q, labels)
    assert row == {
        "disagreement": disagreement(p, q),
        "activation_distance": activation_distance(p, q),
        "jensen_shannon": jensen_shannon(p, q),
        "accuracy": accuracy(q, labels),
        "log_loss": log_loss(q, labels),
        "calibration_error": calibration_error(q, labels),
    }
    same = functional_comparison(p, p, labels)
    assert same["disagreement"] == same["activation_distance"] == same["jensen_shannon"] == 0


def test_empty_bins_have_no_accuracy() -> None:
    curve = reliability(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 0]), bins=4)
    assert curve["count"].tolist() == [0, 0, 0, 2]
    assert curve[["low", "high"]].iloc[3].tolist() == [0.75, 1]
    assert curve["accuracy"].isna().tolist() == [True, True, True, False]
    assert curve["accuracy"].iloc[3] == 0.5
    assert curve["confidence"].iloc[3] == pytest.approx(0.85)


def test_laws() -> None:
    p, q, labels = rows(0)
    assert agreement(p, p) == 1
    assert jensen_shannon(p, p) == activation_distance(p, p) == 0
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    logits = torch.randn(6, 3)
    assert agreement(logits, probabilities(logits)) == 1
    certain = torch.eye(2)
    assert jensen_shannon(certain, certain.flip(0)) == pytest.approx(math.log(2))
    assert activation_distance(certain, certain.flip(0)) == pytest.approx(math.sqrt(2))
    assert calibration_error(certain, torch.tensor([0, 1])) == 0
    assert calibration_error(certain, torch.tensor([1, 0])) == 1
    assert calibration_error(p.float(), labels) == pytest.approx(calibration_error(p, labels), abs=1e-6)


def test_a_calibrated_model_has_no_error() -> None:
    p = torch.tensor([[0.8, 0.2]] * 10)
    assert calibration_error(p, torch.tensor([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-7)
    assert calibration_error(p, torch.tensor([0] * 5 + [1] * 5)) == pytest.approx(0.3, abs=1e-6)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    p = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert calibration_error(p, torch.tensor([0, 1]), bins=2) == (0.5 + 0.75) / 2


def test_bad_input() -> None:
    p, q, labels = rows(1)
    with pytest.raises(DataError, match="apply probabilities"):
        jensen_shannon(p, torch.randn(20, 4))
    with pytest.raises(DataError, match="apply probabilities"):
        calibration_error(p * 2, labels)
    with pytest.raises(DataError, match=r"shapes \(20, 4\) and \(10, 4\)"):
        agreement(p, q[:10])
    with pytest.raises(DataError, match="20 outputs but labels of shape"):
        accuracy(p, labels[:3])
    with pytest.raises(DataError, match=r"labels from 0 to 4 with 4 classes: give 0 .. K-1"):
        log_loss(p, torch.arange(20) % 5)
    with pytest.raises(DataError, match="finite"):
        agreement(p, q * float("nan"))
    with pytest.raises(DataError, match=r"N > 0, got \(0, 4\)"):
        accuracy(p[:0], labels[:0])
    with pytest.raises(ConfigError, match="bins must be 1 to 10000"):
        calibration_error(p, labels, bins=0)

"""Onto which directions of the teacher mapped features converge."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.errors import ConfigError, ModelError, UnknownNameError
from xaibench.experiments.convergence import Convergence, energy_share, nearest_map
from xaibench.experiments.run_experiment import parse_experiment

quick = settings(deadline=None, max_examples=25)
SMALL = Convergence(fraction=0.03, student="resnet18-cifar:4-4-4-4@4", epochs=2, lr=1e-2, batch_size=32)


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    trained: list[None] = []
    found = SMALL.measure(0, lambda: trained.append(None))
    assert len(trained) == SMALL.trainings == 3
    return found


@quick
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 1000))
def test_the_share_is_the_mean_square_of_projected_rows(k: int, more: int, seed: int) -> None:
    d = k + more
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, k, generator=generator, dtype=torch.float64)
    mapping = torch.randn(d, k, generator=generator, dtype=torch.float64)
    every = orthonormal(d, d, seed)
    directions, rest, covariance = every[:, :k], every[:, k:], features.T @ features / 20
    mapped = features @ mapping.T
    share = energy_share(mapping, covariance, directions)
    assert share == pytest.approx(((mapped @ directions).square().sum() / mapped.square().sum()).item())
    assert -1e-9 <= share <= 1 + 1e-9
    assert energy_share(mapping, covariance, every) == pytest.approx(1)
    assert share + energy_share(mapping, covariance, rest) == pytest.approx(1)


@quick
@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 1000))
def test_the_nearest_map_finds_the_one_that_made_the_features(k: int, more: int, seed: int) -> None:
    true = orthonormal(k + more, k, seed)
    student = torch.randn(40, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(nearest_map(student, student @ true.T), true)


def test_every_epoch_is_measured_from_the_untrained_student_on(rows: pd.DataFrame) -> None:
    assert list(rows.columns) == [*Convergence.keys, "value"]
    assert set(rows["epoch"]) == {0, 1, 2}
    assert rows["value"].between(0, 1).all()
    maps = rows.groupby("method")["map"].agg(set).to_dict()
    both = {"learned", "fitted"}
    assert maps == {"subdistill:mapping=rotation": both, "subdistill:mapping=linear": both, "kd": {"fitted"}}
    assert rows.groupby("layer")["chance"].first().tolist() == [4 / 16, 4 / 32, 4 / 64, 4 / 128]
    assert len(rows) == 3 * 4 * 3 * (2 + 2 + 1)
    start = rows[(rows["epoch"] == 0) & (rows["map"] == "fitted")]
    by_method = start.pivot(index=["layer", "basis"], columns="method", values="value")
    assert (by_method.nunique(axis=1) == 1).all()  # all begin with one student


def test_a_learned_map_turns_towards_the_directions_of_most_variance(rows: pd.DataFrame) -> None:
    learned = rows[rows["map"] == "learned"].pivot_table(index="basis", columns="epoch", values="value")
    assert learned.loc["pca", 2] > learned.loc["pca", 0] + 0.02
    assert learned.loc["pca_reversed", 2] < learned.loc["pca_reversed", 0]


def test_sentences_compare_the_end_with_the_beginning(rows: pd.DataFrame) -> None:
    first, rotation, linear, kd = SMALL.sentences(rows.assign(seed=0))
    assert first == "Share of the features' energy over 4 layers, 1 seed(s), before and after 2 epochs:"
    own = rows[(rows["method"] == "subdistill:mapping=linear") & (rows["map"] == "learned") & (rows["basis"] == "pca")]
    before, after = (own.loc[own["epoch"] == epoch, "value"].mean() for epoch in (0, 2))
    assert linear.startswith(f"SubDistill (mapping=linear) (learned map): PCA {before:.3f}, {after:.3f}; PCA, reversed")
    assert rotation.startswith("SubDistill (mapping=rotation) (learned map): PCA 0.")
    assert kd.startswith("KD (fitted map): PCA 0.")


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="fraction must be at most 1, got 2"):
        parse_experiment("convergence:fraction=2")
    with pytest.raises(UnknownNameError, match="unknown centring 'men': did you mean 'mean'"):
        parse_experiment("convergence:centring=men")
    with pytest.raises(ModelError, match="no layer of the student has fewer channels than the teacher's"):
        Convergence(fraction=0.03, student="resnet18-cifar:16-32-64-128@16").measure(0, lambda: None)

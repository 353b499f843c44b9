"""The XOR toy: blobs, what can be known of them, and which directions carry a subtask."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.experiments.run_experiment import parse_experiment
from xaibench.experiments.xor import Xor, XorNet, best_accuracy, blobs

SMALL = Xor(points=60, bases=("prcaposdef", "pca"), widths=(1,), epochs=2)


def coordinates(images: torch.Tensor) -> torch.Tensor:
    return (images.flatten(1).double() / 255 - 0.5) * 8


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    trained: list[None] = []
    found = SMALL.measure(3, lambda: trained.append(None))
    assert len(trained) == SMALL.trainings == 6
    return found


def test_points_lie_around_corners_and_labels_are_those_of_the_corner() -> None:
    images, differ = blobs(4000, 0.1, 0)
    x = coordinates(images)
    signs = x > 0  # nothing is on the wrong side at this spread
    want = torch.stack([signs[:, a] != signs[:, b] for a, b in ((0, 1), (0, 2), (1, 2))], 1)
    assert torch.equal(differ, want)
    assert (x.abs().mean(0) - 1).abs().max() < 0.02
    assert ((x - x.sign()).std(0) - 0.1).abs().max() < 0.01
    assert len(signs.unique(dim=0)) == 8


@pytest.mark.parametrize("spread", [0.3, 0.5, 1.0])
def test_the_sign_of_the_product_is_right_as_often_as_any_classifier(spread: float) -> None:
    images, differ = blobs(100_000, spread, 1)
    x = coordinates(images)
    right = ((x[:, 0] * x[:, 1] < 0) == differ[:, 0]).double().mean().item()
    assert right == pytest.approx(best_accuracy(spread), abs=4 * math.sqrt(0.25 / 100_000))


def test_a_teacher_has_two_logits_a_pair_that_differ_by_its_number() -> None:
    net = XorNet(8, tasks=3)
    x = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    logits = net(x)
    assert logits.shape == (5, 6)
    torch.testing.assert_close(logits[:, 1::2] - logits[:, ::2], net.head(net.features(x)).flatten(1))
    assert XorNet(4, tasks=1)(x).shape == (5, 2)


def test_one_relevant_direction_carries_the_subtask_and_nothing_of_the_others(rows: pd.DataFrame) -> None:
    value = rows.set_index(["measure", "method", "k"])["value"]
    whole = value["teacher", "none", 128]
    assert whole > 0.94
    assert value["projected", "prcaposdef", 1] > whole - 0.02
    assert value["projected", "pca", 1] < 0.6
    assert value["other subtasks", "prcaposdef", 1] < 0.6
    for basis in SMALL.bases:
        assert value["projected", basis, 128] == pytest.approx(whole, abs=0.002)
        assert value["other subtasks", basis, 128] > 0.94


def test_every_method_has_a_student_and_sentences_name_what_was_measured(rows: pd.DataFrame) -> None:
    students = rows[rows["measure"] == "student"]
    assert set(students["method"]) == {"prcaposdef", "pca", "full", "kd", "student-only"}
    assert students["value"].between(0.3, 1).all()
    first, projected, trained = SMALL.sentences(rows.assign(seed=3))
    whole = rows.loc[rows["measure"] == "teacher", "value"].item()
    assert first.endswith(f"at best 0.956, of the teacher {whole:.3f}.")
    assert projected.startswith("The teacher projected on 1 direction: PRCA (positive definite) 0.9")
    assert trained.startswith("Students of 1 channel(s): PRCA (positive definite) 0.")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_leaves_the_generator(rows: pd.DataFrame) -> None:
    state = torch.get_rng_state()
    again = SMALL.measure(3, lambda: None)
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(again, rows)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("xor:bases=pca+pac", UnknownNameError, "unknown basis 'pac': did you mean 'pca'"),
        ("xor:pair=zz", UnknownNameError, "unknown value of option 'pair' of experiment 'xor': 'zz'"),
        ("xor:points=3", ConfigError, "points must be at least 16, got 3"),
        ("xor:spread=2", ConfigError, "spread must be at most 1, got 2"),
        ("xor:widths=2+2", ConfigError, r"widths must be one or more, each once, got \(2, 2\)"),
        ("xor:widths=64", ConfigError, r"widths must lie in 1\.\.32, got 64"),
        ("xor:epochs=0", ConfigError, "epochs must be above 0, got 0"),
        ("xor:centring=men", UnknownNameError, "unknown centring 'men': did you mean 'mean'"),
    ],
)
def test_options_that_cannot_be_are_refused(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_experiment(text)

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaibench.attribution.targets import Target, make_target
from xaibench.errors import DataError, ExplanationError, UnknownNameError


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), k=st.integers(2, 5), labelled=st.booleans())
def test_make_target_equals_a_slow_loop(seed: int, n: int, k: int, labelled: bool) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, k)), rng.integers(0, k, n)
    target = make_target(torch.tensor(logits), torch.tensor(labels) if labelled else None)
    chosen = target.select(torch.tensor(logits))
    for i in range(n):
        y = int(labels[i]) if labelled else int(np.argmax(logits[i]))
        r = max((j for j in range(k) if j != y), key=lambda j: logits[i, j])
        assert (int(target.label[i]), int(target.contrast[i])) == (y, r)
        assert float(chosen[i]) == logits[i, y] - logits[i, r]


def test_contrast_own_takes_the_models_runner_up() -> None:
    teacher = torch.tensor([[3.0, 2.0, 1.0]])
    own = torch.tensor([[3.0, 1.0, 2.0]])
    assert make_target(teacher).contrast.tolist() == [1]
    target = make_target(teacher, contrast="own", logits_own=own)
    assert (target.contrast.tolist(), target.rule) == ([2], "own")


def test_take_and_same_as() -> None:
    target = Target(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    part = target.take([2, 0])
    assert part.label.tolist() == [2, 0]
    assert part.contrast.tolist() == [0, 1]
    assert target.same_as(target.take([0, 1, 2]))
    assert target.take([-1]).label.tolist() == [2]
    assert target.take(torch.tensor([True, False, True])).label.tolist() == [0, 2]
    with pytest.raises(DataError, match="index 3 is not among the 3 images"):
        target.take([3])
    assert not target.same_as(Target(target.label, torch.tensor([2, 2, 0])))


LOGITS = torch.tensor([[1.0, 2.0], [2.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_target(LOGITS, torch.tensor([0, 2])),
            "target class 2 is not among the model's 2 classes",
        ),
        (lambda: make_target(LOGITS, torch.tensor([0, -1])), "target class -1"),
        (lambda: make_target(LOGITS, torch.tensor([0])), "2 rows of logits but labels of shape"),
        (lambda: make_target(LOGITS[:, :1]), "at least 2 classes"),
        (lambda: make_target([[1.0, 2.0]]), r"teacher's logits must be a tensor \(N, K\), got list"),
        (lambda: make_target(LOGITS, ["a", "b"]), r"labels must be whole numbers, got \['a', 'b'\]"),
        (lambda: make_target(LOGITS, torch.tensor([0.9, 1.0])), "must be whole numbers, got torch.float32"),
        (lambda: make_target(LOGITS, torch.tensor([True, False])), "must be whole numbers, got torch.bool"),
        (lambda: make_target(LOGITS * torch.nan), "NaN or infinite"),
        (lambda: make_target(LOGITS, contrast="own"), "give logits_own"),
        (lambda: make_target(LOGITS, contrast="own", logits_own=LOGITS[:1]), "same images and classes"),
        (
            lambda: Target(torch.tensor([0, 1]), torch.tensor([1, 1])),
            "image 1 is contrasted with its own class 1",
        ),
        (
            lambda: Target(torch.tensor([0.0]), torch.tensor([1])),
            r"int64 tensor of shape \(N,\), got torch.float32",
        ),
        (lambda: Target(torch.tensor([0, 1]), torch.tensor([1])), "2 labels and 1 contrasts"),
    ],
)
def test_bad_targets(call, message: str) -> None:
    with pytest.raises(ExplanationError, match=message):
        call()


def test_unknown_contrast() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'teacher'"):
        make_target(LOGITS, contrast="teachr")

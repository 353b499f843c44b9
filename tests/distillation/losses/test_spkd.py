from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.spkd import SPKD_VARIANTS, similarity_preserving
from xaibench.errors import ConfigError, UnknownNameError

Normal = Callable[..., Tensor]
variants = pytest.mark.parametrize("variant", SPKD_VARIANTS)


@pytest.mark.parametrize(
    ("variant", "stem", "key"),
    [("squared", "repdistiller", "spkd_squared"), ("norm", "subdistill", "spkd(norm, not squared)")],
)
def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected, variant: str, stem: str, key: str) -> None:  # type: ignore[no-untyped-def]
    value = similarity_preserving(public["student_feats"], public["teacher_feats"], variant)
    assert value.mean().item() == pytest.approx(expected(stem)[key], rel=1e-5)


def slow_gram(features: list[list[float]]) -> list[list[float]]:
    gram = [[sum(a * b for a, b in zip(u, v)) for v in features] for u in features]
    return [[g / math.sqrt(sum(h * h for h in row)) for g in row] for row in gram]


@variants
def test_the_loss_is_the_definition(normal: Normal, variant: str) -> None:
    student, teacher = normal(5, 4, 2, 3), normal(5, 6, 3, 3, seed=1)
    grams = [slow_gram(features.flatten(1).tolist()) for features in (student, teacher)]
    rows = [sum((a - b) ** 2 for a, b in zip(*pair)) for pair in zip(*grams)]
    have = similarity_preserving(student, teacher, variant)
    want = sum(rows) / 25 if variant == "squared" else math.sqrt(sum(rows)) / 25
    assert have.mean().item() == pytest.approx(want, rel=1e-10)
    if variant == "squared":
        assert have.tolist() == pytest.approx([row / 5 for row in rows], rel=1e-10)


@variants
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), factor=st.floats(1e-2, 1e2), order=st.permutations(range(5)))
def test_only_similarities_within_the_batch_count(  # type: ignore[no-untyped-def]
    normal: Normal, orthogonal, variant: str, seed: int, factor: float, order: list[int]
) -> None:
    student, teacher = normal(5, 8, seed=seed), normal(5, 12, seed=seed + 1)
    value = similarity_preserving(student, teacher, variant)
    assert torch.allclose(similarity_preserving(student[order], teacher[order], variant), value[order], rtol=1e-9)
    turned = factor * student @ orthogonal(8, seed)
    assert torch.allclose(similarity_preserving(turned, teacher, variant), value, rtol=1e-9)
    assert similarity_preserving(factor * teacher, teacher, variant).max() < 1e-9
    assert (value > 0).all()


@variants
def test_gradients(normal: Normal, variant: str) -> None:
    teacher = normal(4, 6, seed=1)
    student = normal(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: similarity_preserving(s, teacher, variant), student)


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match="same samples of both, got 4 of the student, 5 of the teacher"):
        similarity_preserving(normal(4, 3), normal(5, 3))
    with pytest.raises(UnknownNameError, match="unknown SPKD variant 'square': did you mean 'squared'"):
        similarity_preserving(normal(4, 3), normal(4, 3), "square")

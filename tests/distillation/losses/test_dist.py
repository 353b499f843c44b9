from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from torch import Tensor

from xaibench.distillation.losses.dist import dist
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]


@pytest.mark.parametrize(("weights", "key"), [((1, 1), "dist_b1_g1_T1"), ((2, 3), "dist_b2_g3_T1")])
def test_the_loss_is_the_public_codes(
    public: dict[str, Tensor], expected, weights: tuple[float, float], key: str
) -> None:  # type: ignore[no-untyped-def]
    value = dist(public["logits_s"], public["logits_t"], *weights)
    assert value.mean().item() == pytest.approx(expected("rivals")[key], rel=1e-5)


def test_the_loss_is_made_of_scipys_correlations(normal: Normal) -> None:
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    have = dist(student, teacher, beta=2, gamma=3, temperature=1.5)
    p, q = ((z / 1.5).softmax(1).numpy() for z in (student, teacher))
    across = sum(1 - pearsonr(p[:, k], q[:, k]).statistic for k in range(4)) / 4
    want = [1.5**2 * (2 * (1 - pearsonr(p[b], q[b]).statistic) + 3 * across) for b in range(6)]
    assert have.tolist() == pytest.approx(want, rel=1e-6)  # the public code adds 1e-8 to the product of the norms


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), order=st.permutations(range(5)), classes=st.permutations(range(4)))
def test_the_order_of_samples_and_classes_does_not_matter(
    normal: Normal, seed: int, order: list[int], classes: list[int]
) -> None:
    student, teacher = normal(5, 4, seed=seed), normal(5, 4, seed=seed + 1)
    value = dist(student, teacher)
    assert torch.allclose(dist(student[order], teacher[order]), value[order])
    assert torch.allclose(dist(student[:, classes], teacher[:, classes]), value)
    assert ((value > 0) & (value < 4)).all()
    assert dist(teacher, teacher).abs().max() < 1e-4
    raised = dist(student + normal(5, 1, seed=seed + 2), teacher)  # softmax does not see what all classes share
    assert torch.allclose(raised, value)


def test_two_classes_that_agree_have_no_loss_within_samples(normal: Normal) -> None:
    """Two points always lie on a line: r = 1 where both models prefer the same class, else -1."""
    teacher = normal(8, 2)
    student = normal(8, 2, seed=1)
    agree = (student.argmax(1) == teacher.argmax(1)).double()
    assert 0 < agree.sum() < 8
    assert torch.allclose(dist(student, teacher, gamma=0), 2 * (1 - agree), atol=1e-5)


def test_constant_rows_and_gradients(normal: Normal) -> None:
    flat = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    value = dist(flat, normal(4, 3))
    value.sum().backward()
    assert torch.allclose(value, torch.full((4,), 2.0).double())
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
    assert torch.autograd.gradcheck(lambda s: dist(s, normal(4, 3), 1, 2, 3), normal(4, 3, seed=1).requires_grad_())


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match=r"student logits \(4, 3\) and teacher logits \(5, 3\) must agree"):
        dist(normal(4, 3), normal(5, 3))
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        dist(normal(4, 3), normal(4, 3), temperature=0)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.influence_functions import TRANSFORMS, influence_weights
from xaibench.errors import ConfigError, DataError, UnknownNameError

influences = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=30).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


@settings(deadline=None, max_examples=25)
@given(scores=influences, kappa=st.floats(0.1, 3), factor=st.floats(1e-2, 1e2))
def test_weights_have_mean_one_fall_with_the_influence_and_know_no_scale(
    scores: Tensor, kappa: float, factor: float
) -> None:
    weights = influence_weights(scores, kappa=kappa)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights > 0).all()
    assert (weights[scores.argsort()].diff() <= 1e-12).all()
    if scores.max() - scores.min() > 1e-6 * scores.abs().max():  # else rounding decides
        torch.testing.assert_close(influence_weights(factor * scores, kappa=kappa), weights, rtol=1e-6, atol=1e-9)


def test_weights_by_hand() -> None:
    scores = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    std = math.sqrt(sum((v - 2.5 / 3) ** 2 for v in (3.0, -1.0, 0.5)) / 3)
    plain = [2 / (1 + math.exp(0.7 * v / std)) for v in (3.0, -1.0, 0.5)]
    expected = torch.tensor(plain, dtype=torch.float64) * 3 / sum(plain)
    torch.testing.assert_close(influence_weights(scores, kappa=0.7), expected)
    rising = torch.tensor([math.e, 1 / math.e, math.exp(-0.25)], dtype=torch.float64)
    torch.testing.assert_close(influence_weights(scores, transform="exp_minmax"), rising)
    assert influence_weights(scores.float()).dtype == torch.float32


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_equal_influences_and_kappa_zero_leave_all_weights_at_one(transform: str) -> None:
    for scores in (torch.full((7,), 0.1), torch.zeros(3), torch.tensor([5.0])):
        assert torch.equal(influence_weights(scores, transform=transform), torch.ones_like(scores))
    torch.testing.assert_close(influence_weights(torch.randn(5), transform=transform, kappa=0.0), torch.ones(5))


def test_extreme_influences_still_give_finite_weights() -> None:
    weights = influence_weights(1e6 + torch.arange(4.0, dtype=torch.float64))
    assert weights.isfinite().all()
    assert weights.mean().item() == pytest.approx(1)


def test_weights_refuse_what_they_cannot_use() -> None:
    scores = torch.tensor([1.0, 2.0])
    with pytest.raises(UnknownNameError, match="unknown influence transform 'sigmoidal': did you mean 'sigmoid'"):
        influence_weights(scores, transform="sigmoidal")
    with pytest.raises(ConfigError, match="kappa must be at least 0, got -1"):
        influence_weights(scores, kappa=-1)
    for wrong in (torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(DataError, match=r"influences must have the shape \(n,\), n > 0, got"):
            influence_weights(wrong)
    with pytest.raises(DataError, match="2 of 3 influences are not finite: raise the damping"):
        influence_weights(torch.tensor([math.nan, 1.0, math.inf]))

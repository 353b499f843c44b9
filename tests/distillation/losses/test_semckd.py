from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.semckd import SemanticLoss, semckd
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
STUDENT, TEACHER = [(3, 4, 4), (4, 2, 2)], [(5, 4, 4), (6, 4, 4), (7, 2, 2)]
BATCH = 6


def make() -> SemanticLoss:
    torch.manual_seed(0)
    return SemanticLoss(TEACHER, STUDENT, BATCH).double()


@pytest.fixture(scope="module")
def maps(normal: Normal) -> Callable[..., tuple[list[Tensor], list[Tensor]]]:
    def draw(b: int = BATCH, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        return tuple(  # type: ignore[return-value]
            [normal(b, *shape, seed=seed + 10 * role + i) for i, shape in enumerate(shapes)]
            for role, shapes in enumerate((STUDENT, TEACHER))
        )

    return draw


def test_each_pair_counts_by_its_attention(normal: Normal) -> None:
    errors, attention = normal(4, 2, 3).square(), normal(4, 2, 3, seed=1).softmax(2)
    have = semckd(errors, attention)
    for b in range(4):
        total = 0.0
        for s in range(2):
            for t in range(3):
                total += attention[b, s, t].item() * errors[b, s, t].item()
        assert have[b].item() == pytest.approx(total / 2, rel=1e-10)
    assert torch.allclose(semckd(torch.full((4, 2, 3), 7.0).double(), attention), torch.full((4,), 7.0).double())
    one_hot = F.one_hot(torch.tensor([2, 0]), 3).expand(4, 2, 3)
    assert torch.allclose(semckd(errors, one_hot), (errors[:, 0, 2] + errors[:, 1, 0]) / 2)


@pytest.mark.parametrize("b", [BATCH, 4])  # the last batch of an epoch may be smaller
def test_the_loss_is_the_definition(maps, softmax, b: int) -> None:  # type: ignore[no-untyped-def]
    loss = make()
    student, teacher = maps(b)
    have = loss(student, teacher)

    def embedded(network: torch.nn.Module, features: Tensor) -> list[list[float]]:
        flat = features.flatten(1).tolist()
        rows = [[sum(x * y for x, y in zip(u, v)) for v in flat] + [0.0] * (BATCH - b) for u in flat]
        values = network(torch.tensor(rows, dtype=torch.float64)).tolist()
        return [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in values]

    queries = [embedded(network, h) for network, h in zip(loss.queries, student)]
    keys = [embedded(network, h) for network, h in zip(loss.keys, teacher)]
    want = [0.0] * b
    for s, hs in enumerate(student):
        for i in range(b):
            attention = softmax([sum(q * k for q, k in zip(queries[s][i], keys[t][i])) for t in range(3)])
            for t, ht in enumerate(teacher):
                size = min(hs.shape[2], ht.shape[2])
                regressed = loss.regressors[s][t](F.adaptive_avg_pool2d(hs, size))  # type: ignore[index]
                error = (regressed - F.adaptive_avg_pool2d(ht, size))[i].flatten().tolist()
                want[i] += attention[t] * sum(e * e for e in error) / len(error) / 2
    assert have.tolist() == pytest.approx(want, rel=1e-10)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 999), order=st.permutations(range(BATCH)))
def test_with_equal_attention_the_order_of_the_batch_only_orders_the_losses(  # type: ignore[no-untyped-def]
    maps, seed: int, order: list[int]
) -> None:
    """A sample's attention comes from its row of similarities, hence from its neighbours' places: take it away."""
    loss = make()
    for parameter in loss.queries.parameters():
        torch.nn.init.zeros_(parameter)
    student, teacher = maps(seed=seed)
    want = loss(student, teacher)
    have = loss([h[order] for h in student], [h[order] for h in teacher])
    assert torch.allclose(have, want[order], rtol=1e-9)


def test_attention_and_regression_both_learn(maps) -> None:  # type: ignore[no-untyped-def]
    loss = make()
    student, teacher = maps()
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    start = loss(student, teacher).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(student, teacher).mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())
        optimizer.step()
    assert loss(student, teacher).mean().item() < 0.8 * start


def test_what_does_not_fit_is_refused(maps) -> None:  # type: ignore[no-untyped-def]
    student, teacher = maps(BATCH + 1)
    with pytest.raises(ConfigError, match="SemCKD was made for batches of at most 6 samples, got 7"):
        make()(student, teacher)
    with pytest.raises(ConfigError, match=r"SemCKD: student \(6, 5, 4, 4\) and teacher \(5, 5, 4, 4\) must agree"):
        make()(maps()[0], [h[:5] for h in teacher])

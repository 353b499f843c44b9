from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.at import AttentionLoss, attention_map, attention_transfer
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
seeds = st.integers(0, 999)


@pytest.mark.parametrize("stem", ["subdistill", "repdistiller"])
def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected, stem: str) -> None:  # type: ignore[no-untyped-def]
    maps = attention_map(public["student_feats"]), attention_map(public["teacher_feats"])
    assert attention_transfer(*maps).mean().item() == pytest.approx(expected(stem)["attention_transfer"], rel=1e-5)


def slow_attention(maps: list[list[list[float]]]) -> list[float]:
    """One image; maps[c][i][j]."""
    places = [(i, j) for i in range(len(maps[0])) for j in range(len(maps[0][0]))]
    energy = [sum(channel[i][j] ** 2 for channel in maps) / len(maps) for i, j in places]
    length = math.sqrt(sum(e * e for e in energy))
    return [e / length for e in energy]


def test_the_loss_is_the_definition(normal: Normal) -> None:
    student, teacher = normal(3, 4, 3, 5), normal(3, 6, 3, 5, seed=1)
    have = attention_transfer(attention_map(student), attention_map(teacher))
    for b in range(3):
        s, t = slow_attention(student[b].tolist()), slow_attention(teacher[b].tolist())
        want = sum((u - v) ** 2 for u, v in zip(s, t)) / 15
        assert have[b].item() == pytest.approx(want, rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, factor=st.floats(1e-3, 1e3), channels=st.permutations(range(4)))
def test_only_where_a_layer_is_active_counts(normal: Normal, seed: int, factor: float, channels: list[int]) -> None:
    student, teacher = normal(3, 4, 3, 5, seed=seed), normal(3, 6, 3, 5, seed=seed + 1)
    loss = AttentionLoss((6, 3, 5), (4, 3, 5))
    target = loss.target(teacher)
    assert target.shape == (3, 15)  # a number a location is all that a cache has to hold
    value = loss(student, target)
    assert torch.allclose(loss(-factor * student[:, channels], target), value, rtol=1e-9)
    assert (value <= 2 / 15).all()
    assert (value > 0).all()
    assert loss(factor * teacher, target).max() < 1e-20


def test_a_layer_without_activity_has_a_finite_loss_and_gradient() -> None:
    dead = torch.zeros(2, 4, 3, 3, requires_grad=True)
    loss = attention_transfer(attention_map(dead), attention_map(torch.ones(2, 6, 3, 3)))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1 / 9] * 2)
    assert dead.grad is not None
    assert torch.isfinite(dead.grad).all()


def test_maps_of_different_sizes_are_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match=r"attention transfer: student \(3, 15\) and teacher \(3, 16\) must agree"):
        attention_transfer(attention_map(normal(3, 4, 3, 5)), attention_map(normal(3, 4, 4, 4)))

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.icd import icd
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
SIDES = {1: (1,), 5: (1, 2), 17: (1, 4), 21: (1, 2, 4)}
WEIGHTS = {1: (1.0,), 5: (1 / 3, 2 / 3), 17: (1 / 4, 3 / 4), 21: (1 / 6, 2 / 6, 3 / 6)}
counts = st.sampled_from(sorted(SIDES))
seeds = st.integers(0, 999)


@pytest.mark.parametrize(("gamma", "count"), [(1, 1), (1, 5), (1, 17), (1, 21), (2, 21)])
def test_the_loss_is_the_public_codes(cells, expected, gamma: int, count: int) -> None:  # type: ignore[no-untyped-def]
    student, teacher, _ = (values[..., :count].double() for values in cells)
    loss = gamma * icd(student, teacher).mean().item()
    # Ours is exact; theirs was computed in float32, which rounds logarithms of about 1 by up to 6e-8.
    rounding = gamma * torch.finfo(torch.float32).eps / 2 if count > 1 else None
    assert loss == pytest.approx(expected("icd_sdd")[f"icd_cluster_gamma{gamma}_P{count}"], rel=1e-5, abs=rounding)


def slow(student: list[list[float]], teacher: list[list[float]], count: int, temperature: float, softmax, kl) -> float:  # type: ignore[no-untyped-def]
    """One image; student[p][k] is class k in cell p."""
    total, start = 0.0, 0
    for side, weight in zip(SIDES[count], WEIGHTS[count]):
        block = range(start, start + side**2)
        start += side**2
        rows = []
        for model in (teacher, student):
            unit = {p: [v / math.sqrt(sum(u * u for u in model[p])) for v in model[p]] for p in block}
            cosines = [[sum(a * b for a, b in zip(unit[p], unit[q])) for q in block] for p in block]
            rows.append([softmax([c / temperature for c in row]) for row in cosines])
        total += weight * sum(kl(q, p) for q, p in zip(*rows))
    return total


@pytest.mark.parametrize("temperature", [2.0, 0.3])
@pytest.mark.parametrize("count", [5, 17, 21])
def test_the_loss_is_the_definition(normal: Normal, softmax, kl, count: int, temperature: float) -> None:  # type: ignore[no-untyped-def]
    student, teacher = normal(3, 6, count), normal(3, 6, count, seed=1)
    images = zip(*(z.transpose(1, 2).tolist() for z in (student, teacher)))
    want = [slow(s, t, count, temperature, softmax, kl) for s, t in images]
    assert icd(student, teacher, temperature).tolist() == pytest.approx(want, rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=seeds, count=counts, order=st.permutations(range(3)))
def test_only_the_angles_between_cells_count(
    normal: Normal,
    orthogonal,
    seed: int,
    count: int,
    order: list[int],  # type: ignore[no-untyped-def]
) -> None:
    student, teacher = normal(3, 6, count, seed=seed), normal(3, 6, count, seed=seed + 1)
    loss = icd(student, teacher)
    turned = torch.einsum("jk,bkp->bjp", orthogonal(6, seed), student)
    stretched = turned * (0.1 + normal(3, 1, count, seed=seed + 2).abs())
    assert torch.allclose(icd(stretched, teacher), loss, atol=1e-12)
    assert torch.allclose(icd(student[order], teacher[order]), loss[order], atol=1e-14)
    assert icd(teacher, teacher).abs().max() < 1e-12
    assert (loss > 0).all() if count > 1 else (loss == 0).all()


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(1, 5)))
def test_the_order_of_a_scales_cells_does_not_count(normal: Normal, order: list[int]) -> None:
    student, teacher = normal(3, 6, 21), normal(3, 6, 21, seed=1)
    shuffled = [0, *order, *reversed(range(5, 21))]
    assert torch.allclose(icd(student[..., shuffled], teacher[..., shuffled]), icd(student, teacher), rtol=1e-10)


@pytest.mark.parametrize("count", [5, 21])
def test_gradients(normal: Normal, count: int) -> None:
    teacher = normal(2, 4, count, seed=1)
    assert torch.autograd.gradcheck(lambda z: icd(z, teacher), normal(2, 4, count).requires_grad_())


@pytest.mark.parametrize("shapes", [((3, 6, 9), (3, 6, 9)), ((3, 6, 21), (3, 6, 17)), ((3, 6, 5), (2, 6, 5))])
def test_what_is_no_grid_is_refused(normal: Normal, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match=r"local logits \(B, K, P\) with P in \[1, 5, 17, 21\], got"):
        icd(*(normal(*shape) for shape in shapes))
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        icd(normal(3, 6, 5), normal(3, 6, 5), temperature=0)

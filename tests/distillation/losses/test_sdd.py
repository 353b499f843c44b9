from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.dkd import dkd, nkd
from xaibench.distillation.losses.kd import kd
from xaibench.distillation.losses.sdd import cell_weights, sdd
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
Cells = tuple[Tensor, Tensor, Tensor]
LABELS = torch.tensor([0, 4, 2, 2, 1])


def plain_kd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return kd(student, teacher)


def plain_nkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return nkd(student, teacher, labels, gamma=2, temperature=4, variant="public")


@pytest.mark.parametrize(
    ("loss", "cells_used", "key"),
    [
        (plain_kd, 21, "sd_kd_T4"),
        (partial(dkd, beta=2), 21, "sd_dkd_a1_b2_T4"),
        (dkd, 21, "sd_dkd_a1_b8_T4"),
        (plain_nkd, 21, "sd_nkd_T4_g2"),
        (plain_kd, 1, "kd_T4_region0"),
        (dkd, 1, "dkd_a1_b8_T4_region0"),
    ],
)
def test_the_losses_are_the_public_codes(cells: Cells, expected, loss, cells_used: int, key: str) -> None:  # type: ignore[no-untyped-def]
    student, teacher, labels = cells
    value = sdd(loss, student[:, :, :cells_used], teacher[:, :, :cells_used], labels)
    assert value.shape == (8,)
    assert value.mean().item() == pytest.approx(expected("icd_sdd")[key], rel=1e-5)


def test_the_cells_that_count_twice_are_the_public_codes(cells: Cells, expected) -> None:  # type: ignore[no-untyped-def]
    _, teacher, labels = cells
    weights = cell_weights(teacher, labels)
    assert set(weights.unique().tolist()) == {1.0, 2.0}
    assert (weights == 2).sum() == expected("icd_sdd")["regions_with_weight_2_of_168"]
    assert (weights[:, 0] == 1).all()


def test_a_cell_counts_twice_where_it_is_right_and_the_whole_wrong_or_the_reverse() -> None:
    says = torch.tensor([[1, 1, 0], [0, 1, 2]])  # the class each cell of two images names
    teacher = torch.nn.functional.one_hot(says, 3).transpose(1, 2).double()
    assert cell_weights(teacher, torch.tensor([1, 1])).tolist() == [[1, 1, 2], [1, 2, 1]]


@pytest.mark.parametrize("loss", [plain_kd, dkd, plain_nkd])
def test_the_loss_is_the_definition(normal: Normal, loss: Callable[..., Tensor]) -> None:
    student, teacher = 2 * normal(5, 6, 17), 2 * normal(5, 6, 17, seed=1)
    have = sdd(loss, student, teacher, LABELS)
    for b, y in enumerate(LABELS.tolist()):
        right = [int(teacher[b, :, p].argmax()) == y for p in range(17)]
        total = 0.0
        for p in range(17):
            value = loss(student[b : b + 1, :, p], teacher[b : b + 1, :, p], LABELS[b : b + 1]).item()
            total += (2 if right[p] != right[0] else 1) * value
        assert have[b].item() == pytest.approx(total / 17, rel=1e-10)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), order=st.permutations(range(5)), rest=st.permutations(range(1, 5)))
def test_orders(normal: Normal, seed: int, order: list[int], rest: list[int]) -> None:
    student, teacher = 2 * normal(5, 6, 5, seed=seed), 2 * normal(5, 6, 5, seed=seed + 1)
    loss = sdd(dkd, student, teacher, LABELS)
    assert torch.allclose(sdd(dkd, student[order], teacher[order], LABELS[order]), loss[order], rtol=1e-9)
    shuffled = [0, *rest]
    assert torch.allclose(sdd(dkd, student[..., shuffled], teacher[..., shuffled], LABELS), loss, rtol=1e-9)
    assert sdd(plain_kd, teacher, teacher, LABELS).abs().max() < 1e-9


def test_gradients(normal: Normal) -> None:
    teacher = normal(5, 6, 5, seed=1)
    assert torch.autograd.gradcheck(lambda z: sdd(dkd, z, teacher, LABELS), normal(5, 6, 5).requires_grad_())


@pytest.mark.parametrize("shape", [(5, 6, 5), (4, 6, 17), (5, 6)])
def test_local_logits_of_different_shapes_are_refused(normal: Normal, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"must both give local logits \(B, K, P\), got \(5, 6, 17\) and"):
        sdd(plain_kd, normal(5, 6, 17), normal(*shape), LABELS)


def test_too_few_labels_are_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match="5 images but 4 labels"):
        sdd(plain_kd, normal(5, 6, 17), normal(5, 6, 17), LABELS[:4])

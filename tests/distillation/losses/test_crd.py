from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.crd import ContrastiveLoss, contrast, draw_negatives
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])


def slow_contrast(scores: list[float], own: int, others: list[int], n: int) -> float:
    noise = len(others) / n
    loss = -math.log(scores[own] / (scores[own] + noise + 1e-7))
    return loss - sum(math.log(noise / (scores[j] + noise + 1e-7)) for j in others)


def test_contrast_is_the_definition(normal: Normal) -> None:
    scores = normal(3, 8).abs()
    negatives = LABELS[:3, None] != LABELS
    have = contrast(scores, torch.arange(3), negatives, 8)
    for b in range(3):
        others = [j for j in range(8) if LABELS[j] != LABELS[b]]
        assert have[b].item() == pytest.approx(slow_contrast(scores[b].tolist(), b, others, 8), rel=1e-10)
    assert (have > 0).all()


def make(**options: float) -> ContrastiveLoss:
    torch.manual_seed(0)
    return ContrastiveLoss(5, 3, LABELS, dimensions=4, **options).double()  # type: ignore[arg-type]


def slow_unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def test_two_steps_are_the_definition(normal: Normal) -> None:
    loss = make(temperature=0.5, momentum=0.3)
    memory = loss.memory.tolist()  # of the student's embeddings, of the teacher's
    z: list[float | None] = [None, None]
    for step, indices in enumerate(([1, 6, 2], [6, 0])):
        features = normal(len(indices), 3, seed=step), normal(len(indices), 5, seed=step + 9)
        have = loss(*features, torch.tensor(indices)).tolist()
        embedded = []
        for layer, rows in zip(loss.embed, features):
            weight, bias = layer.weight.tolist(), layer.bias.tolist()  # type: ignore[union-attr,operator]
            dots = [[sum(w * x for w, x in zip(u, r)) + c for u, c in zip(weight, bias)] for r in rows.tolist()]
            embedded.append([slow_unit(row) for row in dots])
        want = [0.0] * len(indices)
        for side in (0, 1):
            raw = [[math.exp(sum(a * b for a, b in zip(v, m)) / 0.5) for m in memory[1 - side]] for v in embedded[side]]
            others = [[j for j in range(8) if LABELS[j] != LABELS[i]] for i in indices]
            if z[side] is None:
                drawn = [row[j] for row, js in zip(raw, others) for j in js]
                z[side] = 8 * sum(drawn) / len(drawn)
            for b, i in enumerate(indices):
                want[b] += slow_contrast([r / z[side] for r in raw[b]], i, others[b], 8)  # type: ignore[operator]
        assert have == pytest.approx(want, rel=1e-10)
        for side in (0, 1):
            for v, i in zip(embedded[side], indices):
                memory[side][i] = slow_unit([0.3 * m + 0.7 * u for m, u in zip(memory[side][i], v)])
        assert torch.allclose(loss.memory, torch.tensor(memory, dtype=torch.float64), rtol=1e-10)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), order=st.permutations(range(4)))
def test_the_order_of_the_batch_only_orders_the_losses(normal: Normal, seed: int, order: list[int]) -> None:
    one, other = make(), make()
    indices = torch.tensor([7, 1, 5, 3])
    student, teacher = normal(4, 3, seed=seed), normal(4, 5, seed=seed + 1)
    assert torch.allclose(
        other(student[order], teacher[order], indices[order]), one(student, teacher, indices)[order], rtol=1e-9
    )
    assert torch.allclose(other.memory, one.memory)
    assert torch.allclose(other.z, one.z)


def test_evaluation_learns_nothing(normal: Normal) -> None:
    loss = make()
    indices = torch.tensor([7, 1])
    loss(normal(2, 3), normal(2, 5), indices)
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    first = loss(normal(2, 3, seed=1), normal(2, 5, seed=1), indices)
    assert torch.equal(loss(normal(2, 3, seed=1), normal(2, 5, seed=1), indices), first)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_images_that_are_embedded_alike_by_both_have_a_small_loss(normal: Normal) -> None:
    """Once the memory of an image is its own embedding, the matched pair scores best."""
    loss = make(momentum=0.0)
    indices = torch.arange(8)
    with torch.no_grad():
        loss.embed[1].weight[:, :3] = loss.embed[0].weight  # type: ignore[index,union-attr]
        loss.embed[1].weight[:, 3:] = 0  # type: ignore[index,union-attr]
        loss.embed[1].bias.copy_(loss.embed[0].bias)  # type: ignore[union-attr,operator,arg-type]
    student = 3 * normal(8, 3)
    teacher = torch.cat([student, normal(8, 2, seed=1)], 1)
    loss(student, teacher, indices)
    matched = loss.eval()(student, teacher, indices).mean()
    strangers = indices.roll(1)
    assert matched < loss(student[strangers], teacher[strangers], indices).mean()


def test_gradients(normal: Normal) -> None:
    loss = make()
    indices = torch.tensor([7, 1])
    loss(normal(2, 3), normal(2, 5), indices)
    loss.eval()
    inputs = normal(2, 3).requires_grad_(), normal(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: loss(s, t, indices), inputs)


@settings(deadline=None, max_examples=25)
@given(labels=st.lists(st.integers(0, 3), min_size=3, max_size=20), count=st.integers(1, 25), seed=st.integers(0, 99))
def test_negatives_are_of_another_class_and_as_many_as_asked_for(labels: list[int], count: int, seed: int) -> None:
    known = torch.tensor([*labels, 7, 8])
    drawn = draw_negatives(known, known, count, torch.Generator().manual_seed(seed))
    others = known[:, None] != known
    assert not (drawn & ~others).any()
    assert drawn.sum(1).tolist() == others.sum(1).clamp(max=count).tolist()
    assert torch.equal(drawn, draw_negatives(known, known, count, torch.Generator().manual_seed(seed)))


def test_every_image_of_another_class_is_drawn_as_often() -> None:
    generator = torch.Generator().manual_seed(0)
    times = sum(draw_negatives(LABELS[:1], LABELS, 2, generator)[0].long() for _ in range(1000))
    assert times[LABELS == 0].sum() == 0  # type: ignore[index,union-attr]
    assert (times[LABELS != 0] - 500).abs().max() < 80  # type: ignore[index,union-attr,operator]


def test_what_cannot_be_contrasted_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match="contrasts classes but all training images have one label: train on several"):
        draw_negatives(torch.zeros(2), torch.zeros(5), 3)
    with pytest.raises(ConfigError, match="CRD needs the same samples of both, got 2 of the student, 3 of the teacher"):
        make()(normal(2, 3), normal(3, 5), torch.tensor([0, 1]))

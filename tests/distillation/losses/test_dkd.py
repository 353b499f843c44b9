from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distillation.losses.dkd import NKD_VARIANTS, dkd, nkd
from xaibench.distillation.losses.kd import kd
from xaibench.errors import ConfigError, UnknownNameError

Normal = Callable[..., Tensor]
LABELS = torch.tensor([0, 4, 2, 2])
seeds = st.integers(0, 999)


def test_dkd_is_the_public_codes(public: dict[str, Tensor], expected) -> None:  # type: ignore[no-untyped-def]
    loss = dkd(public["logits_s"], public["logits_t"], public["targets"], alpha=1, beta=8, temperature=4)
    assert loss.mean().item() == pytest.approx(expected("subdistill")["dkd_a1_b8_T4"], rel=1e-5)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (0.5, 0, 1), (0, 2, 2)])
def test_dkd_is_the_definition(  # type: ignore[no-untyped-def]
    normal: Normal, softmax, kl, alpha: float, beta: float, temperature: float
) -> None:
    s, t = 2 * normal(4, 5), 2 * normal(4, 5, seed=1)
    want = []
    for a, b, y in zip((s / temperature).tolist(), (t / temperature).tolist(), LABELS.tolist()):
        p, q = softmax(a), softmax(b)
        target = kl([q[y], sum(q) - q[y]], [p[y], sum(p) - p[y]])
        others = kl(softmax(b[:y] + b[y + 1 :]), softmax(a[:y] + a[y + 1 :]))
        want.append(temperature**2 * (alpha * target + beta * others))
    assert dkd(s, t, LABELS, alpha, beta, temperature).tolist() == pytest.approx(want, rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, temperature=st.floats(0.5, 20))
def test_kd_is_its_target_part_and_the_rest_by_the_teachers_doubt(
    normal: Normal, seed: int, temperature: float
) -> None:
    s, t = 2 * normal(4, 5, seed=seed), 2 * normal(4, 5, seed=seed + 1)
    doubt = 1 - (t / temperature).softmax(1).gather(1, LABELS[:, None])[:, 0]
    target, others = (dkd(s, t, LABELS, *weights, temperature) for weights in ((1, 0), (0, 1)))
    assert torch.allclose(target + doubt * others, kd(s, t, temperature), rtol=1e-8)
    assert torch.allclose(dkd(s, t, LABELS, 3, 5, temperature), 3 * target + 5 * others, rtol=1e-8)


def test_a_teacher_that_is_certain_gives_finite_losses() -> None:
    teacher = torch.tensor([[300.0, 0, 1, 2, 3]])
    loss = dkd(torch.zeros(1, 5, requires_grad=True), teacher, torch.tensor([0]), temperature=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(dkd(teacher, torch.zeros(1, 5), torch.tensor([0]), temperature=1.0)).all()


@pytest.mark.parametrize("variant", NKD_VARIANTS)
def test_nkd_is_the_definition(normal: Normal, softmax, variant: str) -> None:  # type: ignore[no-untyped-def]
    s, t = 2 * normal(4, 5), 2 * normal(4, 5, seed=1)
    gamma, temperature = 1.5, 3.0
    want = []
    for a, b, y in zip(s.tolist(), t.tolist(), LABELS.tolist()):
        own = -softmax(b)[y] * math.log(softmax(a)[y])
        kept = [k for k in range(5) if variant == "public" or k != y]
        p, q = (softmax([z[k] / temperature for k in kept]) for z in (a, b))
        others = -sum(v * math.log(u) for v, u in zip(q, p))
        want.append(own + gamma * temperature**2 * others)
    assert nkd(s, t, LABELS, gamma, temperature, variant).tolist() == pytest.approx(want, rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, shift=st.floats(-20, 20), order=st.permutations(range(4)))
@pytest.mark.parametrize("loss", [dkd, *(lambda s, t, y, v=v: nkd(s, t, y, variant=v) for v in NKD_VARIANTS)])
def test_shifts_change_nothing_and_samples_keep_their_losses(
    normal: Normal, loss: Callable[..., Tensor], seed: int, shift: float, order: list[int]
) -> None:
    s, t = 2 * normal(4, 5, seed=seed), 2 * normal(4, 5, seed=seed + 1)
    value = loss(s, t, LABELS)
    assert torch.allclose(loss(s + shift, t - shift, LABELS), value, rtol=1e-8)
    assert torch.allclose(loss(s[order], t[order], LABELS[order]), value[order], rtol=1e-9)
    assert (value > 0).all()


@settings(deadline=None, max_examples=25)
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_dkd_knows_the_teacher_and_scales_as_kd_does(normal: Normal, seed: int, factor: float) -> None:
    s, t = 2 * normal(4, 5, seed=seed), 2 * normal(4, 5, seed=seed + 1)
    assert dkd(t, t, LABELS).abs().max() < 1e-9
    scaled = dkd(factor * s, factor * t, LABELS, temperature=factor * 4)
    assert torch.allclose(scaled, factor**2 * dkd(s, t, LABELS), rtol=1e-8)


def test_nkds_second_part_is_least_for_the_teachers_own_logits(normal: Normal) -> None:
    t = 2 * normal(4, 5)
    for seed in range(1, 6):
        s = t + 0.1 * normal(4, 5, seed=seed)
        parts = [nkd(z, t, LABELS, gamma) for z in (s, t) for gamma in (1.0, 0.0)]
        assert ((parts[0] - parts[1]) > (parts[2] - parts[3])).all()


def test_gradients(normal: Normal) -> None:
    s, t = normal(4, 5).requires_grad_(), normal(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda z: dkd(z, t, LABELS), s)
    for variant in NKD_VARIANTS:
        assert torch.autograd.gradcheck(lambda z, v=variant: nkd(z, t, LABELS, variant=v), s)


@pytest.mark.parametrize("loss", [dkd, nkd])
def test_what_cannot_be_compared_is_refused(normal: Normal, loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        loss(normal(4, 5), normal(4, 5), LABELS, temperature=0)
    with pytest.raises(ConfigError, match=r"student logits \(4, 5\) and teacher logits \(4, 3\) must agree"):
        loss(normal(4, 5), normal(4, 3), LABELS)
    with pytest.raises(ConfigError, match=r"4 rows of logits but 3 labels"):
        loss(normal(4, 5), normal(4, 5), LABELS[:3])
    with pytest.raises(ConfigError, match="needs at least 2 classes, got 1"):
        loss(normal(4, 1), normal(4, 1), torch.zeros(4, dtype=torch.long))
    with pytest.raises(UnknownNameError, match="unknown NKD variant 'papr': did you mean 'paper'"):
        nkd(normal(4, 5), normal(4, 5), LABELS, variant="papr")

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import zscore
from torch import Tensor

from xaibench.distillation.losses.dkd import dkd
from xaibench.distillation.losses.kd import cross_entropy, kd, standardised
from xaibench.errors import ConfigError

Normal = Callable[..., Tensor]
seeds = st.integers(0, 999)


@pytest.mark.parametrize("stem", ["subdistill", "repdistiller"])
def test_kd_is_the_public_codes(public: dict[str, Tensor], expected, stem: str) -> None:  # type: ignore[no-untyped-def]
    loss = kd(public["logits_s"], public["logits_t"]).mean().item()
    assert loss == pytest.approx(expected(stem)["kd_T4"], rel=1e-5)


def test_losses_of_standardised_logits_are_the_public_codes(public: dict[str, Tensor], expected) -> None:  # type: ignore[no-untyped-def]
    s, t = standardised(public["logits_s"]), standardised(public["logits_t"])
    want = expected("rivals")
    assert kd(s, t, 2).mean().item() == pytest.approx(want["kd_standardised_T2"], rel=1e-5)
    value = dkd(s, t, public["targets"], 1, 8, 2).mean().item()
    assert value == pytest.approx(want["dkd_standardised_a1_b8_T2"], rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, factor=st.floats(0.1, 100), shift=st.floats(-50, 50), classes=st.integers(2, 6))
def test_standardised_logits_are_scipys_and_blind_to_range(
    normal: Normal, seed: int, factor: float, shift: float, classes: int
) -> None:
    z = normal(4, classes, seed=seed)
    z[:, 0] = 1 + z[:, 1:].abs().amax(1)  # at least 1 above the others: a spread beside which the 1e-7 is nothing
    assert torch.allclose(standardised(z), torch.tensor(zscore(z.numpy(), axis=1, ddof=1)), rtol=1e-5)
    assert torch.allclose(standardised(factor * z + shift), standardised(z), rtol=1e-5, atol=1e-5)
    assert kd(standardised(factor * z + shift), standardised(z), 2).abs().max() < 1e-8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_definition_and_torchs(normal: Normal, softmax, kl, temperature: float) -> None:  # type: ignore[no-untyped-def]
    s, t = 3 * normal(4, 5), 3 * normal(4, 5, seed=1)
    have = kd(s, t, temperature)
    want = [
        temperature**2 * kl(softmax([v / temperature for v in b]), softmax([v / temperature for v in a]))
        for a, b in zip(s.tolist(), t.tolist())
    ]
    assert have.tolist() == pytest.approx(want, rel=1e-10)
    library = F.kl_div((s / temperature).log_softmax(1), (t / temperature).softmax(1), reduction="batchmean")
    assert have.mean().item() == pytest.approx(temperature**2 * library.item(), rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
def test_kd_is_zero_for_the_same_decision_and_positive_else(
    normal: Normal, seed: int, shift: float, temperature: float
) -> None:
    s, t = 3 * normal(4, 5, seed=seed), 3 * normal(4, 5, seed=seed + 1)
    assert kd(t + shift, t, temperature).abs().max() < 1e-9
    assert kd(s, t, temperature).min() > 0
    assert torch.allclose(kd(s + shift, t - shift, temperature), kd(s, t, temperature), atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, order=st.permutations(range(5)), factor=st.floats(0.1, 10), temperature=st.floats(0.5, 20))
def test_orders_and_scales(normal: Normal, seed: int, order: list[int], factor: float, temperature: float) -> None:
    s, t = 3 * normal(5, 5, seed=seed), 3 * normal(5, 5, seed=seed + 1)
    loss = kd(s, t, temperature)
    assert torch.allclose(kd(s[:, order], t[:, order], temperature), loss, rtol=1e-9)  # classes
    assert torch.allclose(kd(s[order], t[order], temperature), loss[order], rtol=1e-9)  # samples
    scaled = kd(factor * s, factor * t, factor * temperature)
    assert torch.allclose(scaled, factor**2 * loss, rtol=1e-9)


def test_a_high_temperature_is_half_the_squared_distance_of_centred_logits(normal: Normal) -> None:
    s, t = 3 * normal(4, 5), 3 * normal(4, 5, seed=1)
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    assert torch.allclose(kd(s, t, 1e4), difference.square().mean(1) / 2, rtol=1e-2)


def test_gradients(normal: Normal) -> None:
    s, t = normal(4, 5).requires_grad_(), normal(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda z: kd(z, t), s)
    assert torch.autograd.gradcheck(lambda z: kd(standardised(z), standardised(t), 2), s)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, torch.tensor([0, 1, 2, 4]), 0.3), s)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_minus_the_log_probability(normal: Normal, softmax, smoothing: float) -> None:  # type: ignore[no-untyped-def]
    s, labels = 3 * normal(4, 5), [0, 4, 2, 2]
    want = []
    for row, y in zip(s.tolist(), labels):
        aims = [(1 - smoothing) * (k == y) + smoothing / 5 for k in range(5)]
        want.append(-sum(q * math.log(p) for q, p in zip(aims, softmax(row))))
    assert cross_entropy(s, torch.tensor(labels), smoothing).tolist() == pytest.approx(want, rel=1e-10)


def test_what_cannot_be_compared_is_refused(normal: Normal) -> None:
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match=f"temperature must be above 0, got {temperature}"):
            kd(normal(4, 5), normal(4, 5), temperature)
    for shape in ((4, 3), (2, 5)):
        with pytest.raises(ConfigError, match=rf"\(4, 5\) and teacher logits \({shape[0]}, {shape[1]}\) must agree"):
            kd(normal(4, 5), normal(*shape))

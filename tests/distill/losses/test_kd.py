from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.distill.losses.logits import cross_entropy, kd
from xaibench.errors import ConfigError


def logits(seed: int, rows: int = 4, classes: int = 5) -> Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(z: list[float]) -> list[float]:
    weights = [math.exp(v - max(z)) for v in z]
    return [w / sum(weights) for w in weights]


def slow_kd(student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    losses = []
    for s, t in zip(student.tolist(), teacher.tolist()):
        q, p = softmax([v / temperature for v in t]), softmax([v / temperature for v in s])
        losses.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(q, p)))
    return losses


def test_kd_is_the_public_codes(golden: Path) -> None:
    arrays, values = np.load(golden / "subdistill.npz"), json.loads((golden / "subdistill.json").read_text())
    loss = kd(torch.tensor(arrays["logits_s"]), torch.tensor(arrays["logits_t"])).mean().item()
    assert loss == pytest.approx(values["kd_T4"], rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kd_is_the_definition_and_torchs(temperature: float) -> None:
    s, t = logits(0), logits(1)
    have = kd(s, t, temperature)
    assert have.shape == (4,)
    assert have.tolist() == pytest.approx(slow_kd(s, t, temperature), rel=1e-10)
    library = F.kl_div((s / temperature).log_softmax(1), (t / temperature).softmax(1), reduction="batchmean")
    assert have.mean().item() == pytest.approx(temperature**2 * library.item(), rel=1e-10)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
def test_kd_is_zero_for_the_same_decision_and_positive_else(seed: int, shift: float, temperature: float) -> None:
    s, t = logits(seed), logits(seed + 1)
    assert kd(t + shift, t, temperature).abs().max() < 1e-9
    assert kd(s, t, temperature).min() > 0
    assert torch.allclose(kd(s + shift, t - shift, temperature), kd(s, t, temperature), atol=1e-9)
    order = torch.randperm(5)
    assert torch.allclose(kd(s[:, order], t[:, order], temperature), kd(s, t, temperature), atol=1e-9)


def test_a_high_temperature_is_half_the_squared_distance_of_centred_logits() -> None:
    s, t = logits(0), logits(1)
    difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    assert torch.allclose(kd(s, t, 1e4), difference.square().mean(1) / 2, rtol=1e-2)


def test_gradients() -> None:
    s, t = logits(0).requires_grad_(), logits(1)
    assert torch.autograd.gradcheck(lambda z: kd(z, t), s)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, torch.tensor([0, 1, 2, 4])), s)


def test_cross_entropy_is_minus_the_log_probability() -> None:
    s, labels = logits(0), [0, 4, 2, 2]
    want = [-math.log(softmax(z)[y]) for z, y in zip(s.tolist(), labels)]
    assert cross_entropy(s, torch.tensor(labels)).tolist() == pytest.approx(want, rel=1e-12)


def test_kd_refuses_what_it_cannot_compare() -> None:
    for temperature in (0.0, -1.0):
        with pytest.raises(ConfigError, match=f"temperature must be above 0, got {temperature}"):
            kd(logits(0), logits(1), temperature)
    with pytest.raises(ConfigError, match=r"student logits \(4, 5\) and teacher logits \(4, 3\) must agree"):
        kd(logits(0), logits(1, classes=3))

from __future__ import annotations

from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xaibench.attribution.explain import explain
from xaibench.attribution.gradients import IntegratedGradients
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError


class Square(nn.Module):
    """Logits (sum of squares, 0): IG is known in closed form and two quadrature points are exact."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1).square().sum(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


class Step(nn.Module):
    """A logit that jumps within a sliver of the path: no affordable quadrature is complete."""

    def forward(self, x: Tensor) -> Tensor:
        value = torch.sigmoid(1e6 * (x.flatten(1).mean(dim=1) - 0.123)) + x.flatten(1).mean(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


def first_against_second(n: int) -> Target:
    return Target(torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64))


def test_bit_equal_to_captum(network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    ours = explain(network, x, target, IntegratedGradients(steps=20, max_steps=20), preprocessing, check=False)

    def forward(points: Tensor, label: Tensor, contrast: Tensor) -> Tensor:
        logits, rows = network(points), torch.arange(len(points))
        return logits[rows, label] - logits[rows, contrast]

    wanted = captum.attr.IntegratedGradients(forward).attribute(
        x,
        baselines=preprocessing.bounds()[0].expand(1, 3, 16, 16).contiguous(),
        additional_forward_args=(target.label, target.contrast),
        n_steps=20,
        internal_batch_size=64,
    )
    assert torch.equal(ours.relevance, wanted.detach())


def test_equals_a_slow_float64_integral(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = IntegratedGradients(steps=16, max_steps=16, baseline="mean")
    ours = explain(network, x[:1], target.take([0]), explainer, preprocessing, check=False)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    network = network.double()
    image, total = x[:1].double(), torch.zeros_like(x[:1], dtype=torch.float64)
    for node, weight in zip((nodes + 1) / 2, weights / 2):
        point = (image * node).requires_grad_()
        logits = network(point)[0]
        (gradient,) = torch.autograd.grad(logits[target.label[0]] - logits[target.contrast[0]], point)
        total += weight * gradient * image
    torch.testing.assert_close(ours.relevance.double(), total, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_closed_form_of_a_sum_of_squares(baseline: str, x: Tensor, preprocessing: Preprocessing) -> None:
    b = preprocessing.bounds()[0] if baseline == "black" else torch.zeros(1)
    explainer = IntegratedGradients(steps=2, baseline=baseline)
    ours = explain(Square(), x, first_against_second(5), explainer, preprocessing)
    torch.testing.assert_close(ours.relevance, x.square() - b.square(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.references["baseline"], b.expand(1, 3, 16, 16) + torch.zeros(1))
    assert ours.validity.flagged == ()


def test_a_stored_baseline(tmp_path: Path, x: Tensor, preprocessing: Preprocessing) -> None:
    path = tmp_path / "blur.safetensors"
    save_file({"baseline": x[0].clone()}, path)
    explainer = IntegratedGradients(steps=2, baseline=str(path))
    ours = explain(Square(), x[1:], first_against_second(4), explainer, preprocessing)
    torch.testing.assert_close(ours.relevance, x[1:].square() - x[:1].square(), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.references["baseline"], x[:1])


def test_steps_are_doubled_for_the_incomplete_images_only(
    network: nn.Module,
    x: Tensor,
    target: Target,
    preprocessing: Preprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    original = captum.attr.IntegratedGradients.attribute

    def spy(self, inputs, **options):
        calls.append((len(inputs), options["n_steps"]))
        return original(self, inputs, **options)

    monkeypatch.setattr(captum.attr.IntegratedGradients, "attribute", spy)
    maps = IntegratedGradients(steps=1, max_steps=50).attribute(network, x, target, preprocessing)
    assert [steps for _, steps in calls] == [1, 2, 4, 8, 16, 32, 50][: len(calls)]
    counts = [count for count, _ in calls]
    assert counts[0] == 5
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[-1] < 5
    monkeypatch.undo()
    for i in range(len(x)):  # each image alone, doubled until it is complete
        for steps in (1, 2, 4, 8, 16, 32, 50):
            alone = IntegratedGradients(steps=steps, max_steps=steps)
            single = alone.attribute(network, x[i : i + 1], target.take([i]), preprocessing)
            if float(single.residual) <= 0.02:
                break
        torch.testing.assert_close(maps.relevance[i], single.relevance[0], rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        black = preprocessing.bounds()[0].expand_as(x)
        wanted = target.select(network(x)) - target.select(network(black))
    defect = (maps.relevance.sum(dim=(1, 2, 3)) - wanted).abs() / wanted.abs()
    torch.testing.assert_close(maps.residual.float(), defect, rtol=1e-2, atol=1e-4)


def test_incomplete_images_are_flagged_and_too_many_refused(preprocessing: Preprocessing) -> None:
    explainer = IntegratedGradients(steps=4, max_steps=8, baseline="mean")
    x = torch.full((6, 3, 4, 4), 0.1)
    x[1] = 0.2
    attribution = explain(Step(), x, first_against_second(6), explainer, preprocessing)
    assert attribution.validity.flagged == (1,)
    assert attribution.validity.checks[0].value == pytest.approx(1 / 6)
    x[2:5] = 0.3
    with pytest.raises(
        ExplanationError,
        match=r"share of incomplete images is 0.667, .* \(4 of 6 .* after 8 steps: raise max_steps\)",
    ):
        explain(Step(), x, first_against_second(6), explainer, preprocessing)


def test_small_internal_batches_raise_no_warning(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = IntegratedGradients(steps=3, max_steps=3, internal_batch=2)
    explain(network, x, target, explainer, preprocessing, check=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "at least 1 step, got steps=0"),
        ({"max_steps": 10}, ConfigError, "max_steps=10 is below steps=50"),
        ({"internal_batch": 0}, ConfigError, "internal_batch must be at least 1"),
        ({"baseline": "blak"}, UnknownNameError, "unknown baseline 'blak': did you mean 'black'"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        IntegratedGradients(**options)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "no baseline at"),
        ({}, "holds 0 tensors"),
        ({"a": torch.zeros(3, 8, 8)}, r"has shape \(3, 8, 8\), the images \(3, 16, 16\)"),
        ({"a": torch.full((3, 16, 16), torch.nan)}, "NaN or infinite"),
    ],
)
def test_bad_stored_baselines(tensors, message: str, tmp_path: Path, x, network, target, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    if tensors is not None:
        save_file(tensors, path)
    with pytest.raises(ExplanationError, match=message):
        explain(network, x, target, IntegratedGradients(baseline=str(path)), preprocessing)


def test_a_corrupt_stored_baseline(tmp_path: Path, x: Tensor, network, target, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    path.write_bytes(b"nonsense")
    with pytest.raises(ExplanationError, match="cannot read the baseline"):
        explain(network, x, target, IntegratedGradients(baseline=str(path)), preprocessing)


@pytest.mark.parametrize(
    ("n", "incomplete", "passes"), [(1, 1, False), (2, 1, True), (4, 2, True), (4, 3, False), (10, 6, False)]
)
def test_how_many_images_may_be_incomplete(n: int, incomplete: int, passes: bool) -> None:
    residual = torch.tensor([0.03, float("nan")] * n)[:incomplete].tolist() + [0.02] * (n - incomplete)
    (check,), flagged = IntegratedGradients().judge(torch.tensor(residual, dtype=torch.float64))
    assert check.passed == passes
    assert flagged == tuple(range(incomplete))

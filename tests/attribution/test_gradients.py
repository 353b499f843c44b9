from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xaibench.attribution.baselines import BASELINES, as_reference, make_baselines
from xaibench.attribution.explain import explain_model
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
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


@pytest.fixture
def by_captum(network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> Callable[..., Tensor]:
    """by_captum(**options) -> captum's integrated gradients of `x` from black."""

    def forward(points: Tensor, label: Tensor, contrast: Tensor) -> Tensor:
        logits, rows = network(points), torch.arange(len(points))
        return logits[rows, label] - logits[rows, contrast]

    def call(**options: int) -> Tensor:
        maps = captum.attr.IntegratedGradients(forward).attribute(
            x,
            baselines=preprocessing.bounds()[0].expand(1, 3, 16, 16).contiguous(),
            additional_forward_args=(target.label, target.contrast),
            **options,
        )
        return maps.detach()

    return call


def test_bit_equal_to_captum(by_captum, network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = IntegratedGradients(20, 20).attribute(network, x, target, preprocessing, 64).relevance
    assert torch.equal(ours, by_captum(n_steps=20, internal_batch_size=64))
    torch.testing.assert_close(ours, by_captum(n_steps=20), rtol=0, atol=1e-6 * float(ours.abs().max()))


@pytest.mark.parametrize("baseline", ["black", "blur", "uniform"])
def test_does_not_depend_on_batches(
    baseline: str, network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    explainer = IntegratedGradients(8, 8, baseline)
    whole = explainer.attribute(network, x, target, preprocessing, 100)
    for points in (5, 17):
        again = explainer.attribute(network, x, target, preprocessing, points)
        assert float((again.relevance - whole.relevance).abs().max() / whole.relevance.abs().max()) <= 1e-6
        torch.testing.assert_close(again.residual, whole.residual, rtol=1e-3, atol=1e-5)
    alone = explainer.attribute(network, x[3:4], target.take([3]), preprocessing, 7).relevance
    assert float((alone - whole.relevance[3:4]).abs().max() / whole.relevance.abs().max()) <= 1e-6


@pytest.mark.parametrize("baseline", BASELINES)
def test_exact_on_a_linear_model(
    baseline: str, linear: nn.Module, slope: Tensor, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    ours = explain_model(linear, x, target, IntegratedGradients(1, 1, baseline, seed=5), preprocessing)
    start = make_baselines(baseline, x, preprocessing, 5)
    torch.testing.assert_close(ours.relevance, slope * (x - start.mean(dim=0)), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.references["baseline"], as_reference(start))
    assert ours.validity.flagged == ()


def test_several_baselines_give_the_mean_of_their_maps(network, x, target, preprocessing, tmp_path: Path) -> None:
    draws = make_baselines("uniform", x, preprocessing, seed=2)
    ours = IntegratedGradients(8, 8, "uniform", seed=2).attribute(network, x, target, preprocessing, 64)
    maps, totals = [], []
    for i, draw in enumerate(draws):
        save_file({"b": draw.contiguous()}, tmp_path / f"{i}.safetensors")
        one = IntegratedGradients(8, 8, str(tmp_path / f"{i}.safetensors"))
        maps.append(one.attribute(network, x, target, preprocessing, 64).relevance)
        with torch.no_grad():
            totals.append(target.select(network(x)) - target.select(network(draw.expand_as(x))))
    mean, total = torch.stack(maps).mean(dim=0), torch.stack(totals).mean(dim=0)
    torch.testing.assert_close(ours.relevance, mean, rtol=1e-4, atol=1e-6)
    defect = (mean.sum(dim=(1, 2, 3)) - total).abs() / total.abs()
    torch.testing.assert_close(ours.residual.float(), defect, rtol=1e-2, atol=1e-4)


def test_equals_a_slow_float64_integral(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = IntegratedGradients(steps=16, max_steps=16, baseline="mean")
    ours = explain_model(network, x[:1], target.take([0]), explainer, preprocessing, check=False)
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
    ours = explain_model(Square(), x, first_against_second(5), explainer, preprocessing)
    torch.testing.assert_close(ours.relevance, x.square() - b.square(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.references["baseline"], b.expand(1, 3, 16, 16) + torch.zeros(1))
    assert ours.validity.flagged == ()


def test_a_stored_baseline(tmp_path: Path, x: Tensor, preprocessing: Preprocessing) -> None:
    path = tmp_path / "blur.safetensors"
    save_file({"baseline": x[0].clone()}, path)
    explainer = IntegratedGradients(steps=2, baseline=str(path))
    ours = explain_model(Square(), x[1:], first_against_second(4), explainer, preprocessing)
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
    maps = IntegratedGradients(steps=1, max_steps=50).attribute(network, x, target, preprocessing, 64)
    assert [steps for _, steps in calls] == [1, 2, 4, 8, 16, 32, 50][: len(calls)]
    counts = [count for count, _ in calls]
    assert counts[0] == 5
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[-1] < 5
    monkeypatch.undo()
    for i in range(len(x)):  # each image alone, doubled until it is complete
        for steps in (1, 2, 4, 8, 16, 32, 50):
            alone = IntegratedGradients(steps=steps, max_steps=steps)
            single = alone.attribute(network, x[i : i + 1], target.take([i]), preprocessing, 64)
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
    attribution = explain_model(Step(), x, first_against_second(6), explainer, preprocessing)
    assert attribution.validity.flagged == (1,)
    assert attribution.validity.checks[2].value == pytest.approx(1 / 6)
    x[2:5] = 0.3
    with pytest.raises(
        ExplanationError,
        match=r"share of incomplete images is 0.667, .* \(4 of 6 .* after 8 steps: raise max_steps\)",
    ):
        explain_model(Step(), x, first_against_second(6), explainer, preprocessing)


def test_fewer_points_than_images_raise_no_warning(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    IntegratedGradients(3, 3).attribute(network, x, target, preprocessing, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "at least 1 step, got steps=0"),
        ({"max_steps": 10}, ConfigError, "max_steps=10 is below steps=50"),
        ({"baseline": "blak"}, UnknownNameError, "unknown baseline 'blak': did you mean 'black'"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        IntegratedGradients(**options)


def test_a_stored_baseline_that_does_not_fit(tmp_path: Path, x: Tensor, network, target, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(3, 8, 8)}, path)
    with pytest.raises(ExplanationError, match=r"has shape \(3, 8, 8\), the images \(3, 16, 16\)"):
        explain_model(network, x, target, IntegratedGradients(baseline=str(path)), preprocessing)


@pytest.mark.parametrize(
    ("n", "incomplete", "passes"), [(1, 1, False), (2, 1, True), (4, 2, True), (4, 3, False), (10, 6, False)]
)
def test_how_many_images_may_be_incomplete(n: int, incomplete: int, passes: bool) -> None:
    residual = torch.tensor([0.03, float("nan")] * n)[:incomplete].tolist() + [0.02] * (n - incomplete)
    (check,), flagged = IntegratedGradients().judge(torch.tensor(residual, dtype=torch.float64))
    assert check.passed == passes
    assert flagged == tuple(range(incomplete))


def test_input_x_gradient_is_captums(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain_model(network, x, target, InputXGradient(), preprocessing).relevance
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.select(network(point)).sum(), point)
    torch.testing.assert_close(ours, x * gradient, rtol=1e-4, atol=1e-6)
    alone = explain_model(network, x[2:3], target.take([2]), InputXGradient(), preprocessing).relevance
    torch.testing.assert_close(alone, ours[2:3], rtol=0, atol=1e-6 * float(ours.abs().max()))


def test_input_x_gradient_is_exact_on_a_linear_model(linear, slope: Tensor, x, target, preprocessing) -> None:
    ours = explain_model(linear, x, target, InputXGradient(), preprocessing)
    torch.testing.assert_close(ours.relevance, slope * x, rtol=1e-5, atol=1e-5)
    assert ours.references == {}


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mean(dim=(2, 3))


@pytest.mark.parametrize("explainer", [InputXGradient(), IntegratedGradients()])
def test_networks_without_gradients(explainer, x: Tensor, preprocessing: Preprocessing) -> None:
    with pytest.raises(ExplanationError, match=r"Detached has no gradient .* with shapley or occlusion") as caught:
        explain_model(Detached(), x, first_against_second(5), explainer, preprocessing)
    assert "\n" not in str(caught.value)

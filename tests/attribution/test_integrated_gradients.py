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
from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.result import Attribution
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
    ours = IntegratedGradients(steps=20).attribute(network, x, target, preprocessing, Room(64)).relevance
    assert torch.equal(ours, by_captum(n_steps=20, internal_batch_size=64))
    torch.testing.assert_close(ours, by_captum(n_steps=20), rtol=0, atol=1e-6 * float(ours.abs().max()))


@pytest.mark.parametrize("baseline", ["black", "blur", "uniform"])
@pytest.mark.parametrize("steps", [None, 8])
def test_does_not_depend_on_batches(
    baseline: str, steps: int | None, network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    explainer, network, x = IntegratedGradients(steps=steps, baseline=baseline), network.double(), x.double()
    whole = explainer.attribute(network, x, target, preprocessing, Room(100))
    scale = float(whole.relevance.abs().max())
    for points in (5, 17):
        again = explainer.attribute(network, x, target, preprocessing, Room(points))
        assert float((again.relevance - whole.relevance).abs().max()) <= 1e-6 * scale
        for name, value in whole.measured.items():
            torch.testing.assert_close(again.measured[name], value, rtol=1e-6, atol=1e-9)
    alone = explainer.attribute(network, x[3:4], target.take([3]), preprocessing, Room(7)).relevance
    assert float((alone - whole.relevance[3:4]).abs().max()) <= 1e-6 * scale


@pytest.mark.parametrize("steps", [None, 1])
@pytest.mark.parametrize("baseline", BASELINES)
def test_exact_on_a_linear_model(
    baseline: str, steps: int | None, linear: nn.Module, slope: Tensor, x: Tensor, target: Target, preprocessing
) -> None:
    explainer = IntegratedGradients(steps=steps, baseline=baseline, seed=5)
    ours = explain_model(linear, x, target, explainer, preprocessing)
    start = make_baselines(baseline, x, preprocessing, 5)
    torch.testing.assert_close(ours.relevance, slope * (x - start.mean(dim=0)), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.references["baseline"], as_reference(start))
    assert ours.validity.flagged == ()


def test_several_baselines_give_the_mean_of_their_maps(network, x, target, preprocessing, tmp_path: Path) -> None:
    x, target = x[:2], target.take([0, 1])
    draws = make_baselines("uniform", x, preprocessing, seed=2)
    sharp = {"tolerance": 2e-3, "budget": 2500}
    ours = IntegratedGradients(**sharp, baseline="uniform", seed=2).attribute(
        network, x, target, preprocessing, Room(64)
    )
    maps, totals = [], []
    for i, draw in enumerate(draws):
        save_file({"b": draw.contiguous()}, tmp_path / f"{i}.safetensors")
        one = IntegratedGradients(**sharp, baseline=str(tmp_path / f"{i}.safetensors"))
        maps.append(one.attribute(network, x, target, preprocessing, Room(64)).relevance)
        with torch.no_grad():
            totals.append(target.select(network(x)) - target.select(network(draw.expand_as(x))))
    mean, total = torch.stack(maps).mean(dim=0), torch.stack(totals).mean(dim=0)
    heat, true = ours.relevance.sum(dim=1).flatten(1), mean.sum(dim=1).flatten(1)
    assert ((heat - true).norm(dim=1) / true.norm(dim=1)).max() <= 4e-3
    defect = (ours.relevance.sum(dim=(1, 2, 3)) - total).abs() / heat.abs().sum(dim=1)
    torch.testing.assert_close(ours.measured["residual"].float(), defect, rtol=1e-2, atol=1e-5)


def test_fixed_steps_equal_a_slow_float64_integral(network, x: Tensor, target: Target, preprocessing) -> None:
    explainer = IntegratedGradients(steps=16, baseline="mean")
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


def test_the_error_estimate_holds_against_captums_rule_with_many_points(
    by_captum, network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    ours = explain_model(network, x, target, IntegratedGradients(tolerance=0.005, budget=2000), preprocessing)
    wanted = by_captum(n_steps=2000, internal_batch_size=250).sum(dim=1).flatten(1)
    error = (ours.heatmaps.flatten(1) - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert ours.measured["error_estimate"].max() <= 0.005
    assert error.max() <= 0.01
    with torch.no_grad():
        owed = target.select(network(x)) - target.select(network(preprocessing.bounds()[0].expand_as(x)))
    defect = (ours.heatmaps.sum(dim=(1, 2)) - owed).abs() / ours.heatmaps.abs().sum(dim=(1, 2))
    torch.testing.assert_close(ours.measured["residual"].float(), defect, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_closed_form_of_a_sum_of_squares(baseline: str, x: Tensor, preprocessing: Preprocessing) -> None:
    """A gradient that is linear along the path: the trapezoid rule is exact, and its estimate says so."""
    b = preprocessing.bounds()[0] if baseline == "black" else torch.zeros(1)
    ours = explain_model(Square(), x, first_against_second(5), IntegratedGradients(baseline=baseline), preprocessing)
    torch.testing.assert_close(ours.relevance, x.square() - b.square(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.references["baseline"], b.expand(1, 3, 16, 16) + torch.zeros(1))
    assert ours.validity.flagged == ()
    assert ours.measured["error_estimate"].max() <= 1e-6
    assert ours.measured["gradients"].tolist() == [33] * 5


def test_a_stored_baseline(tmp_path: Path, x: Tensor, preprocessing: Preprocessing) -> None:
    path = tmp_path / "blur.safetensors"
    save_file({"baseline": x[0].clone()}, path)
    explainer = IntegratedGradients(steps=2, baseline=str(path))
    ours = explain_model(Square(), x[1:], first_against_second(4), explainer, preprocessing)
    torch.testing.assert_close(ours.relevance, x[1:].square() - x[:1].square(), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.references["baseline"], x[:1])


def test_images_above_the_tolerance_are_flagged_and_too_many_refused(preprocessing: Preprocessing) -> None:
    explainer = IntegratedGradients(tolerance=0.001, budget=33, baseline="mean")
    x = torch.full((6, 3, 4, 4), 0.1)
    x[1] = 0.2
    attribution = explain_model(Step(), x, first_against_second(6), explainer, preprocessing)
    assert attribution.validity.flagged == (1,)
    assert attribution.validity.checks[2].value == pytest.approx(1 / 6)
    assert attribution.measured["gradients"].tolist() == [33] * 6
    x[2:5] = 0.3
    with pytest.raises(
        ExplanationError,
        match=r"share of incomplete images is 0.667, .* \(4 of 6 with an estimated error above 0.001 or a residual "
        r"above 0.01 of sum \|IG\|: raise budget or tolerance\)",
    ):
        explain_model(Step(), x, first_against_second(6), explainer, preprocessing)


def test_a_step_that_no_node_sees_shows_in_the_residual(preprocessing: Preprocessing) -> None:
    x = torch.full((3, 3, 4, 4), 0.1)
    x[1] = 0.2
    attribution = explain_model(Step(), x, first_against_second(3), IntegratedGradients(baseline="mean"), preprocessing)
    assert float(attribution.measured["error_estimate"][1]) <= 1e-6
    assert float(attribution.measured["residual"][1]) > 1
    assert attribution.validity.flagged == (1,)


@pytest.mark.parametrize("explainer", ["ig", "ig:steps=20", "shapley:samples=1,patch=8"])
def test_an_image_that_is_its_own_baseline_owes_nothing(explainer: str, network, x, target, preprocessing) -> None:
    """Its logits differ by their rounding from batch to batch, and its map is 0 everywhere."""
    x = x.clone()
    x[1] = x[3] = preprocessing.bounds()[0][0]
    with torch.no_grad():
        network.fc.bias.add_(100)  # so that there is much to round
    maps = explain_model(network, x, target, explainer, preprocessing)
    assert maps.measured["residual"][[1, 3]].tolist() == [0, 0]
    assert not {1, 3} & set(maps.validity.flagged)


def test_what_is_measured_is_stored_with_the_maps(network, x, target, preprocessing, tmp_path: Path) -> None:
    ours = explain_model(network, x, target, IntegratedGradients(), preprocessing)
    again = Attribution.load(ours.save(tmp_path / "ig.safetensors"))
    assert list(ours.measured) == ["error_estimate", "residual", "gradients"]
    for name, value in ours.measured.items():
        assert torch.equal(again.measured[name], value)
        assert torch.equal(again.take([3, 1]).measured[name], value[[3, 1]])


def test_maps_do_not_depend_on_the_memory_they_may_take(network, x, target, preprocessing) -> None:
    network, x = network.double(), x.double()
    free, tight = (
        explain_model(network, x, target, IntegratedGradients(), preprocessing, memory=memory)
        for memory in (None, 2**20)
    )
    torch.testing.assert_close(tight.relevance, free.relevance, rtol=1e-5, atol=1e-7)
    assert torch.equal(tight.measured["gradients"], free.measured["gradients"])


def test_fewer_points_than_images_raise_no_warning(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    IntegratedGradients(steps=3).attribute(network, x, target, preprocessing, Room(2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "at least 1 step, got steps=0"),
        ({"budget": 32}, ConfigError, "budget=32 is below the 33 gradients .* give 33 or more"),
        ({"tolerance": 0}, ConfigError, "tolerance must be a finite number > 0, got 0"),
        ({"tolerance": -0.1}, ConfigError, "tolerance must be a finite number > 0, got -0.1"),
        ({"tolerance": float("nan")}, ConfigError, "tolerance must be a finite number > 0, got nan"),
        ({"steps": 50, "budget": 99}, ConfigError, "steps=50 asks for a fixed rule, which has no budget"),
        ({"baseline": "blak"}, UnknownNameError, "unknown baseline 'blak': did you mean 'black'"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        IntegratedGradients(**options)


@pytest.mark.parametrize(
    ("n", "incomplete", "passes"), [(1, 1, False), (2, 1, True), (4, 2, True), (4, 3, False), (10, 6, False)]
)
@pytest.mark.parametrize("measure", ["error_estimate", "residual"])
def test_how_many_images_may_be_incomplete(measure: str, n: int, incomplete: int, passes: bool) -> None:
    measured = {name: torch.zeros(n, dtype=torch.float64) for name in ("error_estimate", "residual")}
    measured[measure][:incomplete] = torch.tensor([0.03, torch.nan] * n)[:incomplete].double()
    (check,), flagged = IntegratedGradients().judge(measured)
    assert check.passed == passes
    assert flagged == tuple(range(incomplete))


def test_a_stored_baseline_that_does_not_fit(tmp_path: Path, x: Tensor, network, target, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    save_file({"a": torch.zeros(3, 8, 8)}, path)
    with pytest.raises(ExplanationError, match=r"has shape \(3, 8, 8\), the images \(3, 16, 16\)"):
        explain_model(network, x, target, IntegratedGradients(baseline=str(path)), preprocessing)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mean(dim=(2, 3))


@pytest.mark.parametrize("explainer", [InputXGradient(), IntegratedGradients()])
def test_networks_without_gradients(explainer, x: Tensor, preprocessing: Preprocessing) -> None:
    with pytest.raises(ExplanationError, match=r"Detached has no gradient .* with shapley or occlusion") as caught:
        explain_model(Detached(), x, first_against_second(5), explainer, preprocessing)
    assert "\n" not in str(caught.value)

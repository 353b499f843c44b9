from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import captum.attr
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from xaibench.attribution.baselines import BASELINES, as_reference, make_baselines
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Validity
from xaibench.attribution.explain import explain_model
from xaibench.attribution.patches import Occlusion, ShapleySampling, patch_numbers
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError


class Product(nn.Module):
    """Logits (product of the means of four quarters, 0): patches interact as much as can be."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(x.mean(dim=1, keepdim=True), 2).flatten(1)
        value = quarters.prod(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


class Noisy(nn.Module):
    """Does not give the same twice."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + torch.rand(len(x), 3)


def first_against_second(n: int) -> Target:
    return Target(torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64))


def patch_sums(values: Tensor, side: int) -> Tensor:
    """Each pixel's patch summed over its pixels and channels: (N, C, H, W) -> (N, 1, H, W)."""
    sums = torch.zeros_like(values[:, :1])
    for top, left in itertools.product(range(0, values.shape[2], side), range(0, values.shape[3], side)):
        rows, columns = slice(top, top + side), slice(left, left + side)
        sums[:, :, rows, columns] = values[:, :, rows, columns].sum(dim=(1, 2, 3), keepdim=True)
    return sums


def explained(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    with torch.no_grad():
        return target.select(model(x))


@pytest.mark.parametrize("side", [4, 5])
@pytest.mark.parametrize("baseline", BASELINES)
def test_shapley_is_exact_on_a_linear_model(
    baseline: str, side: int, linear: nn.Module, slope: Tensor, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    ours = explain_model(linear, x, target, ShapleySampling(side, 2, baseline, seed=3), preprocessing)
    start = make_baselines(baseline, x, preprocessing, 3)
    pixels = patch_sums(torch.ones_like(x), side)
    wanted = patch_sums(slope * (x - start.mean(dim=0)), side) / pixels
    torch.testing.assert_close(ours.relevance, wanted.expand_as(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.references["baseline"], as_reference(start))
    assert ours.validity.flagged == ()


@pytest.mark.parametrize("baseline", BASELINES)
def test_occlusion_is_exact_on_a_linear_model(
    baseline: str, linear: nn.Module, slope: Tensor, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    ours = explain_model(linear, x, target, Occlusion(4, 4, baseline, seed=3), preprocessing)
    start = make_baselines(baseline, x, preprocessing, 3)
    wanted = patch_sums(slope * (x - start.mean(dim=0)), 4)[:, 0]
    torch.testing.assert_close(ours.heatmaps, wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.relevance, wanted[:, None].expand_as(x) / 3, rtol=1e-4, atol=1e-3)
    assert torch.equal(ours.references["baseline"], as_reference(start))


def test_shapley_over_all_orders_is_the_shapley_value(preprocessing: Preprocessing) -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    x = x.clamp(*(bound.mean() for bound in preprocessing.bounds()))
    ours = explain_model(Product(), x, first_against_second(2), ShapleySampling(2, 4000, "mean"), preprocessing)
    values = torch.zeros(2, 4)
    for order in itertools.permutations(range(4)):
        shown = torch.zeros_like(x)
        before = explained(Product(), shown, first_against_second(2))
        for patch in order:
            inside = patch_numbers(x, 2) == patch
            shown = torch.where(inside, x, shown)
            after = explained(Product(), shown, first_against_second(2))
            values[:, patch] += (after - before) / 24
            before = after
    got = torch.stack([(ours.relevance * (patch_numbers(x, 2) == p)).sum(dim=(1, 2, 3)) for p in range(4)], dim=1)
    torch.testing.assert_close(got, values, rtol=0, atol=0.1 * float(values.abs().max()))


def test_shapley_is_captums_with_the_patch_values_shared_out(
    network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ShapleySampling(8, 3, "mean", seed=4).attribute(network, x, target, preprocessing, Room(10)).relevance
    generator = torch.Generator().manual_seed(4)
    orders = [torch.randperm(4, generator=generator) for _ in range(3)]
    monkeypatch.setattr(torch, "randperm", lambda count: orders.pop(0))

    def forward(points: Tensor, label: Tensor, contrast: Tensor) -> Tensor:
        return Target(label, contrast).select(network(points))

    wanted = captum.attr.ShapleyValueSampling(forward).attribute(
        x,
        baselines=0,
        feature_mask=torch.tensor([[0, 1], [2, 3]]).repeat_interleave(8, 0).repeat_interleave(8, 1)[None, None],
        additional_forward_args=(target.label, target.contrast),
        n_samples=3,
        perturbations_per_eval=2,
    )
    assert torch.equal(ours, wanted / (8 * 8 * 3))


@pytest.mark.parametrize(("side", "stride"), [(4, 2), (5, 3), (8, 8)])
def test_occlusion_equals_one_window_at_a_time(
    side: int, stride: int, network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    ours = explain_model(network, x, target, Occlusion(side, stride), preprocessing).heatmaps
    black = preprocessing.bounds()[0].expand_as(x)
    whole = explained(network, x, target)
    total, count = torch.zeros(5, 16, 16), torch.zeros(16, 16)
    starts = range(0, 16 - side + stride, stride)
    for top, left in itertools.product(starts, starts):
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[top : top + side, left : left + side] = True
        drop = whole - explained(network, torch.where(inside, black, x), target)
        total += drop[:, None, None] * inside
        count += inside
    assert bool((count > 0).all())
    torch.testing.assert_close(ours, total / count, rtol=1e-3, atol=1e-5)


def test_windows_are_half_a_window_apart_by_default(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    default, given = (explain_model(network, x, target, one, preprocessing) for one in (Occlusion(5), Occlusion(5, 2)))
    assert torch.equal(default.relevance, given.relevance)


@pytest.mark.parametrize("explainer", [ShapleySampling(4, 2), ShapleySampling(5, 1, "blur"), Occlusion(6, 4, "blur")])
def test_does_not_depend_on_batches(explainer, network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    whole = explainer.attribute(network, x, target, preprocessing, Room(64))
    for points in (2, 5, 13):  # 2: fewer than images
        again = explainer.attribute(network, x, target, preprocessing, Room(points))
        torch.testing.assert_close(
            again.relevance, whole.relevance, rtol=0, atol=1e-5 * float(whole.relevance.abs().max())
        )
    alone = explainer.attribute(network, x[3:4], target.take([3]), preprocessing, Room(3))
    scale = float(whole.relevance.abs().max())
    torch.testing.assert_close(alone.relevance, whole.relevance[3:4], rtol=0, atol=1e-5 * scale)


def test_the_orders_are_seeded(network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    first, second, other = (
        explain_model(network, x, target, ShapleySampling(8, 1, seed=seed), preprocessing).relevance
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_shapley_values_sum_to_the_difference(height: int, width: int, side: int, samples: int, seed: int) -> None:
    side = min(side, height, width)
    preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    generator = torch.Generator().manual_seed(seed)
    x = preprocessing(torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 8), nn.Tanh(), nn.Linear(8, 2))
    maps = ShapleySampling(side, samples, seed=seed).attribute(
        model, x, first_against_second(2), preprocessing, Room(16)
    )
    ends = (x, preprocessing.bounds()[0].expand_as(x))
    full, empty = (explained(model, end, first_against_second(2)) for end in ends)
    torch.testing.assert_close(maps.relevance.sum(dim=(1, 2, 3)), full - empty, rtol=1e-4, atol=1e-5)
    for patch in range(int(patch_numbers(x, side).max()) + 1):
        inside = (patch_numbers(x, side) == patch).expand_as(x[:1])
        assert bool((maps.relevance[:, inside[0]] == maps.relevance[:, inside[0]][:, :1]).all())


def test_maps_that_do_not_sum_are_refused(x: Tensor, preprocessing: Preprocessing) -> None:
    shapley, target = ShapleySampling(8, 1), first_against_second(5)
    checks, _ = shapley.judge(shapley.attribute(Noisy(), x, target, preprocessing, Room(16)).measured)
    with pytest.raises(ExplanationError, match=r"share of incomplete images is .* \(\d of 5 off by more than 0.1%"):
        Validity(checks).require()


@pytest.mark.parametrize(
    ("size", "side"), [((28, 28), 4), ((32, 32), 4), ((63, 80), 4), ((64, 64), 8), ((224, 224), 8), ((3, 9), 3)]
)
def test_the_default_patch_depends_on_the_image(size: tuple[int, int], side: int, preprocessing: Preprocessing) -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return x.mean(dim=(2, 3))

    x = torch.ones(1, 3, *size)
    ShapleySampling(samples=1).attribute(Counting(), x, first_against_second(1), preprocessing, Room(1))
    patches = -(-size[0] // side) * -(-size[1] // side)
    assert len(calls) == patches + 3  # captum's own f(b), then f(x) and f(b)


def test_patches_are_numbered_row_by_row() -> None:
    grid = patch_numbers(torch.zeros(2, 3, 5, 7), 3)
    assert grid.shape == (1, 1, 5, 7)
    wanted = [[0, 0, 0, 1, 1, 1, 2]] * 3 + [[3, 3, 3, 4, 4, 4, 5]] * 2
    assert grid[0, 0].tolist() == wanted


@pytest.mark.parametrize("explainer", [ShapleySampling(samples=1), Occlusion()])
def test_no_gradient_is_needed(explainer, x: Tensor, preprocessing: Preprocessing) -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().mean(dim=(2, 3))

    assert explain_model(Detached(), x, first_against_second(5), explainer, preprocessing).validity.valid


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ShapleySampling(patch=0), ConfigError, "patch must be at least 1, got 0"),
        (lambda: ShapleySampling(samples=0), ConfigError, "samples must be at least 1, got 0"),
        (lambda: Occlusion(stride=0), ConfigError, "stride must be at least 1, got 0"),
        (lambda: Occlusion(baseline="grey"), UnknownNameError, "unknown baseline 'grey'"),
        (lambda: ShapleySampling(baseline="meen"), UnknownNameError, "did you mean 'mean'"),
    ],
)
def test_bad_options(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        (ShapleySampling(patch=17), "patches of 17 pixels do not fit images of 16x16"),
        (Occlusion(patch=17), "patches of 17 pixels do not fit images of 16x16"),
        (Occlusion(patch=4, stride=5), "windows of 4 pixels 5 apart leave gaps: lower the stride to 4"),
    ],
)
def test_options_that_do_not_fit_the_images(explainer, message: str, network, x, target, preprocessing) -> None:
    with pytest.raises(ExplanationError, match=message):
        explain_model(network, x, target, explainer, preprocessing)


@pytest.mark.parametrize("kind", [ShapleySampling, Occlusion])
def test_a_stored_baseline_that_does_not_fit(kind, tmp_path: Path, network, x, target, preprocessing) -> None:
    save_file({"a": torch.zeros(3, 8, 8)}, tmp_path / "b.safetensors")
    with pytest.raises(ExplanationError, match=r"has shape \(3, 8, 8\), the images \(3, 16, 16\)"):
        explain_model(network, x, target, kind(baseline=str(tmp_path / "b.safetensors")), preprocessing)

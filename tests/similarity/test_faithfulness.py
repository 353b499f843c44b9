"""The gap of pixel flipping: closed forms and laws for linear models, chance for random maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.attribution.baselines import make_baselines
from xaibench.attribution.explain import explain_model
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import XaibenchError
from xaibench.models.pair import ModelPair
from xaibench.similarity.faithfulness import flipping_gap
from xaibench.similarity.intervals import mean_interval

PREPROCESSING = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.2))
N, SIDE, K = 5, 12, 3
GRIDS = st.sampled_from([2, 3, 4, 6, 12])  # patches of one size
FILLS = st.sampled_from(["mean", "black", "blur"])  # what stands in a patch does not depend on the others


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, K)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(draw(*p.shape, seed=seed))
    return model.eval()


def world(seed: int, fill: str) -> tuple[nn.Module, Tensor, Target, Tensor]:
    """A linear model, images, targets and the perfect maps: what each pixel adds to z_y - z_r."""
    x, model = draw(N, 3, SIDE, SIDE, seed=seed + 1), linear(seed)
    target = make_target(model(x).detach())
    weight = model[1].weight.detach()
    w = (weight[target.label] - weight[target.contrast]).view_as(x)
    return model, x, target, (w * (x - make_baselines(fill, x, PREPROCESSING)[0].to(x))).sum(dim=1)


def slow_gap(
    model: nn.Module, x: Tensor, contributions: Tensor, maps: Tensor, target: Target, grid: int
) -> list[float]:
    """(f(x) + f(filled)) / 2 minus the mean output while patches vanish, one image, patch and pixel at a time."""
    size, gaps = SIDE // grid, []
    for i in range(len(x)):
        cells = {}
        for a, b in itertools.product(range(grid), range(grid)):
            rows, columns = slice(a * size, (a + 1) * size), slice(b * size, (b + 1) * size)
            cells[a, b] = (float(maps[i, rows, columns].sum()), float(contributions[i, rows, columns].sum()))
        falling = [share for _, share in sorted(cells.values(), key=lambda cell: -cell[0])]
        f = float(target.select(model(x).detach())[i])
        curve = [f - sum(falling[: step * grid]) for step in range(grid + 1)]
        area = sum((curve[step] + curve[step + 1]) / 2 for step in range(grid)) / grid
        gaps.append((curve[0] + curve[-1]) / 2 - area)
    return gaps


@given(seed=st.integers(0, 10**6), grid=GRIDS, fill=FILLS)
@settings(deadline=None, max_examples=15)
def test_the_gap_of_a_linear_model_is_that_of_one_patch_at_a_time_whatever_the_seed(
    seed: int, grid: int, fill: str
) -> None:
    model, x, target, perfect = world(seed, fill)
    maps = draw(N, SIDE, SIDE, seed=seed + 2)
    want = slow_gap(model, x, perfect, maps, target, grid)
    for order_seed in (0, seed):
        gaps = flipping_gap(model, x, maps, target, PREPROCESSING, grid=grid, fill=fill, seed=order_seed)
        np.testing.assert_allclose(gaps, want, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 10**6), grid=GRIDS, fill=FILLS)
@settings(deadline=None, max_examples=15)
def test_no_map_of_a_linear_model_has_a_larger_gap_than_the_perfect_one(seed: int, grid: int, fill: str) -> None:
    model, x, target, perfect = world(seed, fill)

    def gap(maps: Tensor) -> np.ndarray:
        return flipping_gap(model, x, maps, target, PREPROCESSING, grid=grid, fill=fill)

    best = gap(perfect)
    assert (best > 0).all()
    for maps in (
        draw(N, SIDE, SIDE, seed=seed + 3),
        perfect.abs(),
        perfect.roll(1, dims=0),
        perfect.sqrt().nan_to_num(),
    ):
        assert (gap(maps) <= best + 1e-9).all()
    np.testing.assert_allclose(gap(-perfect), -best, rtol=0, atol=1e-9)


def test_only_the_order_of_patches_counts(make_pair, tiny_task) -> None:  # type: ignore[no-untyped-def]
    model, x, target, maps = trained(make_pair(), tiny_task)
    gaps = flipping_gap(model, x, maps, target, PREPROCESSING)
    np.testing.assert_array_equal(gaps, flipping_gap(model, x, 4 * maps, target, PREPROCESSING, device="cpu"))
    assert (gaps != flipping_gap(model, x, -maps, target, PREPROCESSING)).any()
    part = flipping_gap(model, x, maps, target, PREPROCESSING, grid=2)
    assert part.shape == gaps.shape
    assert (part != gaps).any()


@pytest.mark.slow
def test_maps_of_a_trained_model_are_better_than_random_and_random_ones_are_not(make_pair, tiny_task) -> None:  # type: ignore[no-untyped-def]
    model, x, target, maps = trained(make_pair(), tiny_task)
    own = mean_interval(flipping_gap(model, x, maps, target, PREPROCESSING)[None])
    assert own.low > 0
    held = 0
    for seed in range(24):
        random = draw(len(x), SIDE, SIDE, seed=seed)
        chance = mean_interval(flipping_gap(model, x, random, target, PREPROCESSING, seed=seed)[None])
        held += chance.low <= 0 <= chance.high
    assert held >= 18  # of 24; with 95% each, fewer have a probability below 1e-4


def test_a_map_without_an_order_has_no_gap_and_leaves_the_others_alone(make_pair, tiny_task) -> None:  # type: ignore[no-untyped-def]
    model, x, target, maps = trained(make_pair(), tiny_task)
    whole = flipping_gap(model, x, maps, target, PREPROCESSING)
    broken = maps.clone()
    broken[0], broken[3, 0, 0] = 1.0, torch.nan
    gaps = flipping_gap(model, x, broken, target, PREPROCESSING)
    assert np.flatnonzero(np.isnan(gaps)).tolist() == [0, 3]
    np.testing.assert_allclose(np.delete(gaps, [0, 3]), np.delete(whole, [0, 3]), rtol=0, atol=1e-5)
    assert mean_interval(gaps[None]).nan == 2


def test_what_does_not_fit_is_one_line(make_pair, tiny_task) -> None:  # type: ignore[no-untyped-def]
    model, x, target, maps = trained(make_pair(), tiny_task)
    for options, message in (
        ({"grid": 40}, "grid 40 does not fit 12x12 images"),
        ({"device": "cup"}, "unknown device 'cup'"),
        ({"fill": "blurr"}, "did you mean 'blur'"),
    ):
        with pytest.raises(XaibenchError, match=message):
            flipping_gap(model, x, maps, target, PREPROCESSING, **options)


def trained(pair: ModelPair, task) -> tuple[nn.Module, Tensor, Target, Tensor]:  # type: ignore[no-untyped-def]
    """The tiny teacher, test images, targets and maps by occlusion."""
    x = PREPROCESSING(task.test.images)
    model = pair.teacher.eval()
    with torch.no_grad():
        target = make_target(model(x), task.test.labels)
    return model, x, target, explain_model(model, x, target, "occlusion", PREPROCESSING).heatmaps

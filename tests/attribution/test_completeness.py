from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.attribution.completeness import explained_difference, judge_images, residual_of, rounding_of
from xaibench.attribution.targets import Target


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 9999), st.floats(-100, 100), st.floats(0.001, 1000))
def test_the_residual_is_at_most_the_relative_l1_error_of_the_heatmap(seed: int, shift: float, scale: float) -> None:
    true, error = normal(2, 3, 4, 4, seed=seed), shift * normal(2, 3, 4, 4, seed=seed + 1)
    maps = scale * (true + error)
    residual = residual_of(maps, scale * true.sum(dim=(1, 2, 3)), torch.zeros(2))
    heat = (true + error).sum(dim=1).flatten(1)
    l1 = error.sum(dim=1).flatten(1).abs().sum(dim=1) / heat.abs().sum(dim=1)
    assert bool((residual <= l1 * (1 + 1e-9) + 1e-9).all())


def test_residuals_of_known_maps() -> None:
    maps = torch.tensor([[1.0, -3.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [torch.nan, 1.0]])[:, None, None]
    owed = torch.tensor([-2.0, 5.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    residual = residual_of(maps, owed, torch.zeros(5))
    assert residual[:4].tolist() == [0, 0.25, 0, torch.inf]  # two channels that cancel leave nothing to divide by
    assert bool(residual[4].isnan())
    assert residual_of(torch.tensor([[[[1.0]], [[-1.0]]]]), owed[3:4], torch.zeros(1)).tolist() == [torch.inf]


def test_what_the_rounding_of_logits_leaves_is_no_residual() -> None:
    maps = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])[:, None, None]
    owed, rounding = torch.tensor([1e-6, 3e-6, 2.0 + 1e-6]), torch.full((3,), 2e-6)
    assert residual_of(maps, owed, rounding).tolist() == [0, torch.inf, 0]
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    x = normal(5, 3, 2, 2, seed=1).float()
    with torch.no_grad():
        largest = model(x).abs().amax(dim=1).double()
        torch.testing.assert_close(rounding_of(model(x)), 8 * 2.0**-23 * largest)
        torch.testing.assert_close(rounding_of(model.double()(x.double())), 8 * 2.0**-52 * largest)


@pytest.mark.parametrize("points", [1, 3, 100])
def test_the_difference_is_to_the_mean_over_the_baselines(points: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double()
    x, baselines = normal(3, 3, 2, 2, seed=1), normal(5, 1, 3, 2, 2, seed=2)
    target = Target(torch.tensor([0, 1, 2]), torch.tensor([3, 2, 0]))
    with torch.no_grad():
        ends = torch.stack([target.select(model(b.expand_as(x))) for b in baselines]).mean(dim=0)
        wanted = target.select(model(x)) - ends
        rounding = rounding_of(model(x))
    torch.testing.assert_close(explained_difference(model, x, baselines, target, points), (wanted, rounding))


def test_more_than_half_of_the_images_off_fail_and_the_remedy_is_named_where_any_is() -> None:
    for off, passed in (([False, False], True), ([True, False], True), ([True, True, False], False), ([True], False)):
        (check,), flagged = judge_images(torch.tensor(off), "with holes", "mend them")
        assert check.passed == passed
        assert flagged == tuple(i for i, is_off in enumerate(off) if is_off)
        assert check.note == f"{sum(off)} of {len(off)} with holes" + ": mend them" * any(off)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from xaibench.attribution.path_gradients import Differentiate, PathGradients
from xaibench.attribution.path_integral import FIRST_NODES, PathIntegral, integrate

SHAPE = (2, 3, 3)


def of(function: Callable[[Tensor], Tensor]) -> Differentiate:
    """The values (P,) and gradients of one function for all images."""

    def differentiate(points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        values = function(points)
        (slopes,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), slopes

    return differentiate


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(seed: int, width: int = 64) -> Callable[[Tensor], Tensor]:
    """A network of two ReLU layers: piecewise linear along any path, with some dozens of kinks."""
    w, v, u = normal(18, width, seed=seed), normal(width, width, seed=seed + 1), normal(width, seed=seed + 2)
    return lambda x: (((x.flatten(1) @ w + 1).relu() @ v / width**0.5 + 0.5).relu() @ u) / width**0.5


def dense(function: Callable[[Tensor], Tensor], x: Tensor, starts: Tensor, nodes: int = 20_000) -> Tensor:
    """The integral by the midpoint rule with many nodes."""
    total = torch.zeros_like(x)
    places = (torch.arange(nodes, dtype=x.dtype) + 0.5) / nodes
    for start in starts:
        for i in range(len(x)):
            path = start[i] + places[:, None, None, None] * (x[i] - start[i])
            total[i] += (x[i] - start[i]) * of(function)(path, places)[1].mean(dim=0)
    return total / len(starts)


def relative(difference: Tensor, reference: Tensor) -> Tensor:
    """The relative L2 error of each heatmap."""
    return difference.sum(dim=1).flatten(1).norm(dim=1) / reference.sum(dim=1).flatten(1).norm(dim=1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.integers(1, 99))
def test_exact_for_a_linear_function(seed: int, n: int, s: int, points: int) -> None:
    slope, x, starts = normal(*SHAPE, seed=seed), normal(n, *SHAPE, seed=seed + 1), normal(s, n, *SHAPE, seed=seed + 2)
    result = integrate(of(lambda at: (at * slope).flatten(1).sum(dim=1) + 3), x, starts, 1e-9, 257, points)
    torch.testing.assert_close(result.value, slope * (x - starts.mean(dim=0)), rtol=0, atol=1e-12)
    assert result.error.max() <= 1e-12
    assert result.gradients.tolist() == [1 + s * (FIRST_NODES - 1)] * n
    torch.testing.assert_close(result.difference, result.value.sum(dim=(1, 2, 3)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.001, 0.999), st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_a_function_of_two_pieces(seed: int, kink: float, tolerance: float) -> None:
    """One jump of the gradient is found by bisection: the error is at most sqrt(3) times the estimate."""
    x, start = normal(1, *SHAPE, seed=seed), normal(1, 1, *SHAPE, seed=seed + 1)
    low, high = normal(*SHAPE, seed=seed + 2), normal(*SHAPE, seed=seed + 3)
    along = (x - start[0]).flatten()

    def function(at: Tensor) -> Tensor:
        place = (at - start[0]).flatten(1) @ along / along.square().sum()
        plain = (at * low).flatten(1).sum(dim=1)
        return plain + (place - kink).relu() * (along @ (high - low).flatten())

    # The gradient of that jumps along `along` alone, by a known amount.
    jump = along.reshape(SHAPE) * (along @ (high - low).flatten()) / along.square().sum()
    exact = (x - start[0]) * (low + (1 - kink) * jump)
    result = integrate(of(function), x, start, tolerance, 257, 64)
    assert float(result.error) <= tolerance
    assert float(relative(result.value - exact, exact)) <= 3**0.5 * tolerance * 1.01
    assert int(result.gradients) <= FIRST_NODES + 30


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 2))
def test_the_estimate_is_of_the_size_of_the_error(seed: int, s: int) -> None:
    x, starts = normal(3, *SHAPE, seed=seed), normal(s, 3, *SHAPE, seed=seed + 1)
    result = integrate(of(mlp(seed)), x, starts, 0.01, 257, 64)
    reference = dense(mlp(seed), x, starts)
    assert result.error.max() <= 0.01
    assert relative(result.value - reference, reference).max() <= 0.03


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 2), st.sampled_from([torch.tanh, F.softplus, F.gelu]))
def test_the_estimate_holds_for_smooth_functions_too(seed: int, s: int, activation: Callable[[Tensor], Tensor]) -> None:
    """Their error is that of the trapezoid rule on a smooth function, a few per cent of what jumps would make."""
    w, u = normal(18, 32, seed=seed) / 5, normal(32, seed=seed + 1)
    function = lambda at: activation(at.flatten(1) @ w) @ u  # noqa: E731
    x, starts = normal(3, *SHAPE, seed=seed + 2), normal(s, 3, *SHAPE, seed=seed + 3)
    result = integrate(of(function), x, starts, 0.01, 257, 64)
    reference = dense(function, x, starts)
    error = relative(result.value - reference, reference)
    assert result.gradients.tolist() == [1 + s * (FIRST_NODES - 1)] * 3
    assert error.max() <= 0.002
    assert (result.error / error).max() <= 2
    assert (result.error / error).min() >= 0.7


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.integers(0, 120), st.integers(1, 40))
def test_gradients_that_there_is_no_room_for_are_taken_again(seed: int, kept: int, points: int) -> None:
    x, starts = normal(3, *SHAPE, seed=seed), normal(2, 3, *SHAPE, seed=seed + 1)
    asked = 0

    def counting(at: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal asked
        asked += len(at)
        return of(mlp(seed))(at, image)

    whole = integrate(counting, x, starts, 0.01, 257, points)
    assert asked == int(whole.gradients.sum())
    asked = 0
    tight = integrate(counting, x, starts, 0.01, 257, points, kept=kept)
    assert asked > int(whole.gradients.sum())
    scale = float(whole.value.abs().max())
    torch.testing.assert_close(tight.value, whole.value, rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(tight.error, whole.error, rtol=1e-6, atol=1e-12)
    assert torch.equal(tight.gradients, whole.gradients)


@pytest.mark.parametrize("room", [0, 1, 7, 100])
def test_no_more_gradients_are_kept_than_there_is_room_for(room: int) -> None:
    x = normal(2, *SHAPE)
    seen: list[int] = []

    def differentiate(at: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(at.flatten(1).sum(dim=1).mul(1e6).round().long().tolist())
        return of(mlp(0))(at, image)

    gradients = PathGradients(differentiate, x, 2 * x, torch.arange(2), 5, room)
    nodes = gradients.add(torch.arange(2).repeat_interleave(20), torch.linspace(0, 1, 20).double().repeat(2))
    wanted = of(mlp(0))(x[gradients.path] * (2 * gradients.place - 1)[:, None, None, None], nodes)
    for _ in range(3):
        for part in nodes[torch.randperm(40, generator=torch.Generator().manual_seed(room))].split(9):
            first, second = gradients.at(part, part.flip(0))
            torch.testing.assert_close(first, wanted[1][part])
            torch.testing.assert_close(second, wanted[1][part.flip(0)])
            gradients.forget(nodes, nodes.double(), 3)
        assert sum(map(len, gradients._blocks)) <= room
    torch.testing.assert_close(gradients.values, wanted[0])
    assert len(seen) == 40 if room == 100 else len(seen) > 40
    if room == 7:
        gradients.forget(nodes, nodes.double(), 7)
        before = len(seen)
        gradients.at(nodes[:7])
        assert len(seen) == before + 7
        gradients.at(nodes[:7])
        assert len(seen) == before + 7
        gradients.forget(nodes, nodes.double(), 2)  # the two that are worth least
        gradients.at(nodes[2:7])
        assert len(seen) == before + 7
        gradients.at(nodes[:2])
        assert len(seen) == before + 9


def test_complete_as_the_tolerance_goes_to_zero() -> None:
    x, starts = normal(6, *SHAPE, seed=1), normal(1, 6, *SHAPE, seed=2)
    last = torch.full((6,), torch.inf, dtype=torch.float64)
    for tolerance in (0.1, 0.01, 0.001, 0.0001):
        result = integrate(of(mlp(3)), x, starts, tolerance, 100_000, 256)
        size = result.value.sum(dim=1).abs().sum(dim=(1, 2))
        defect = (result.value.sum(dim=(1, 2, 3)) - result.difference).abs() / size
        assert result.error.max() <= tolerance
        assert defect.max() <= 4 * tolerance
        assert bool((result.gradients >= 33).all())
        assert bool((result.error <= last).all())
        last = result.error


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)), st.integers(1, 200), st.integers(0, 99))
def test_depends_on_neither_batch_nor_order(order: list[int], points: int, seed: int) -> None:
    x, starts = normal(5, *SHAPE, seed=seed), normal(2, 5, *SHAPE, seed=seed + 1)
    whole = integrate(of(mlp(seed)), x, starts, 0.01, 257, 64)
    shuffled = integrate(of(mlp(seed)), x[order], starts[:, order], 0.01, 257, points)
    scale = float(whole.value.abs().max())
    torch.testing.assert_close(shuffled.value, whole.value[order], rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(shuffled.error, whole.error[order], rtol=1e-6, atol=1e-12)
    assert torch.equal(shuffled.gradients, whole.gradients[order])
    alone = integrate(of(mlp(seed)), x[:1], starts[:, :1], 0.01, 257, points)
    torch.testing.assert_close(alone.value, whole.value[:1], rtol=0, atol=1e-6 * scale)


def test_several_starts_give_the_mean_of_their_integrals() -> None:
    x, starts = normal(3, *SHAPE, seed=1), normal(4, 3, *SHAPE, seed=2)
    together = integrate(of(mlp(0)), x, starts, 1e-4, 10_000, 64)
    each = [integrate(of(mlp(0)), x, start[None], 1e-4, 10_000, 64) for start in starts]
    mean = torch.stack([one.value for one in each]).mean(dim=0)
    assert relative(together.value - mean, mean).max() <= 4e-4
    torch.testing.assert_close(together.difference, torch.stack([one.difference for one in each]).mean(dim=0))


@pytest.mark.parametrize("budget", [33, 34, 50, 257])
@pytest.mark.parametrize("s", [1, 3])
def test_every_point_is_asked_for_once_and_no_more_than_the_budget(budget: int, s: int) -> None:
    x, starts = normal(4, *SHAPE, seed=1), normal(s, 4, *SHAPE, seed=2)
    asked: list[tuple[int, ...]] = []

    def counting(points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        assert len(points) <= 16
        asked.extend((int(i), *point.flatten().tolist()) for i, point in zip(image, points))
        return of(mlp(0))(points, image)

    result = integrate(counting, x, starts, 1e-9, budget, 16)
    assert len(set(asked)) == len(asked)
    assert result.gradients.tolist() == [sum(who == i for who, *_ in asked) for i in range(4)]
    assert int(result.gradients.max()) <= s * budget
    if s == 1:
        assert result.gradients.tolist() == [budget] * 4
    assert bool((result.error > 1e-9).all())


def test_harder_images_get_more_gradients_and_the_worst_intervals_are_halved() -> None:
    x, starts = torch.ones(2, *SHAPE, dtype=torch.float64), torch.zeros(1, 2, *SHAPE, dtype=torch.float64)
    slopes = torch.tensor([0.0, 40.0], dtype=torch.float64)
    seen: list[float] = []

    def differentiate(points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend(float(point.mean()) for point, i in zip(points, image) if i == 1)
        bend = slopes[image][:, None, None, None]
        return of(lambda at: (at + bend * (at - 0.3).relu()).flatten(1).sum(dim=1))(points, image)

    result = integrate(differentiate, x, starts, 0.001, 257, 64)
    assert result.gradients[0] == FIRST_NODES < result.gradients[1] < FIRST_NODES + 12
    assert all(abs(place - 0.3) < 1 / 32 for place in seen[FIRST_NODES:])


def test_an_image_whose_gradient_breaks_down_leaves_the_others_alone() -> None:
    x, starts = normal(3, *SHAPE, seed=1), normal(1, 3, *SHAPE, seed=2)

    def differentiate(points: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = of(mlp(0))(points, image)
        return values, torch.where((image == 1)[:, None, None, None], torch.nan, slopes)

    result, sound = integrate(differentiate, x, starts, 0.01, 257, 64), integrate(of(mlp(0)), x, starts, 0.01, 257, 64)
    assert bool(result.error[1].isnan())
    torch.testing.assert_close(result.value[[0, 2]], sound.value[[0, 2]])
    assert result.gradients[1] == FIRST_NODES


def test_a_function_that_does_not_depend_on_the_image() -> None:
    x = normal(2, *SHAPE)
    result = integrate(of(lambda at: at.flatten(1).sum(dim=1) * 0), x, torch.zeros_like(x)[None], 0.01, 257, 64)
    assert result.error.tolist() == [0, 0]
    assert bool((result.value == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stays_in_the_type_of_the_images(dtype: torch.dtype) -> None:
    x = normal(2, *SHAPE).to(dtype)
    result = integrate(of(lambda at: at.relu().flatten(1).sum(dim=1)), x, -x[None], 0.01, 257, 64)
    assert result.value.dtype == dtype
    assert result.error.dtype == torch.float64


def test_an_image_whose_map_does_not_add_up_gets_more_points() -> None:
    """One kink just past a node: the error is sqrt(3) times what is expected of a place within the interval."""
    x = torch.ones(2, *SHAPE, dtype=torch.float64)
    starts = torch.stack([-1.001 * x[0], x[0] / 2])[None]  # the second has no kink on its path
    function = of(lambda at: at.flatten(1).sum(dim=1).relu())

    def residual(found: PathIntegral) -> Tensor:
        maps = found.value.sum(dim=1).flatten(1)
        return (maps.sum(dim=1) - found.difference).abs() / maps.abs().sum(dim=1)

    by_error = integrate(function, x, starts, 0.02, 257, 64)
    assert by_error.gradients.tolist() == [33, 33]
    assert by_error.error[0] <= 0.02
    assert residual(by_error)[0] > 0.03
    both = integrate(function, x, starts, 0.02, 257, 64, residual=0.01)
    assert residual(both).max() <= 0.01
    assert both.gradients[0] in range(34, 40)
    assert both.gradients[1] == 33
    never = integrate(lambda at, image: (at.sum(dim=(1, 2, 3)), at * 0 + 2), x, starts, 0.02, 57, 64, residual=0.01)
    assert residual(never).min() > 0.4  # values and gradients of different functions: it ends nevertheless


def test_what_is_owed_is_looked_for_where_no_node_met_a_jump() -> None:
    """A rise within an interval of the first nodes: their gradients are equal, and sum to half of what is owed."""
    slope = 0.05 / 9

    def function(at: Tensor) -> Tensor:
        mean = at.flatten(1).mean(dim=1)
        rise = 20 * ((mean - 0.505).relu() - (mean - 0.515).relu())
        return slope * at.flatten(1).sum(dim=1) + rise

    x, starts = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 1, 3, 3)
    result = integrate(of(function), x, starts, 0.02, 257, 64, residual=0.01)
    assert int(result.gradients) > 33
    assert float(result.value.sum()) == pytest.approx(float(result.difference), rel=0.01)


def test_a_map_of_nothing_that_owes_nothing_but_rounding_takes_no_more_gradients() -> None:
    def function(at: Tensor) -> Tensor:
        return 3 + at.flatten(1).sum(dim=1) * 0 + 1e-7 * (at.flatten(1).amax(dim=1) > 0.9)

    x, starts = torch.ones(2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2)
    result = integrate(of(function), x, starts, 0.02, 257, 64, residual=0.01, rounding=1e-6)
    assert result.gradients.tolist() == [33, 33]

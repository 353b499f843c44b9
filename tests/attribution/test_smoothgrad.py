from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.smoothgrad import SmoothGrad
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError


class Square(nn.Module):
    """Logits (sum of squares, 0): the gradient at x + e is 2 (x + e)."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1).square().sum(dim=1)
        return torch.stack([value, torch.zeros_like(value)], dim=1)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mean(dim=(2, 3))


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.mean(dim=(2, 3)) + torch.arange(3.0)


@pytest.fixture
def noise(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """200 draws of what SmoothGrad adds with noise=0.5, read off a network whose gradient is twice its input."""
    target = Target(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
    return torch.cat(
        [
            SmoothGrad(1, 0.5, seed).attribute(Square(), x[:1], target, preprocessing, Room(8)).relevance / 2 - x[:1]
            for seed in range(200)
        ]
    )


def test_exact_on_a_linear_model(linear: nn.Module, slope: Tensor, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain_model(linear, x, target, SmoothGrad(samples=3), preprocessing)
    torch.testing.assert_close(ours.relevance, slope, rtol=1e-5, atol=1e-5)


def test_the_noise_is_a_share_of_the_range_of_pixels(noise: Tensor, preprocessing: Preprocessing) -> None:
    low, high = preprocessing.bounds()
    share = (noise / (high - low)).transpose(0, 1).flatten(1)
    n = share.shape[1]
    torch.testing.assert_close(share.std(dim=1), torch.full((3,), 0.5), rtol=5 / (2 * n) ** 0.5, atol=0)
    torch.testing.assert_close(share.mean(dim=1), torch.zeros(3), rtol=0, atol=5 * 0.5 / n**0.5)


def test_all_images_share_the_noise(x: Tensor, preprocessing: Preprocessing) -> None:
    target = Target(torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    added = SmoothGrad(4, seed=1).attribute(Square(), x, target, preprocessing, Room(8)).relevance / 2 - x
    torch.testing.assert_close(added, added[:1].expand_as(added), rtol=0, atol=1e-5)


def test_equals_one_gradient_at_a_time(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain_model(network, x[1:3], target.take([1, 2]), SmoothGrad(5, 0.1, 7), preprocessing).relevance
    draws = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    draws = 0.1 * draws / torch.tensor(preprocessing.std).view(3, 1, 1)
    network = network.double()
    for i, image in enumerate(x[1:3], start=1):
        total = torch.zeros(3, 16, 16, dtype=torch.float64)
        for draw in draws:
            point = (image + draw).double().requires_grad_()
            logits = network(point[None])[0]
            total += torch.autograd.grad(logits[target.label[i]] - logits[target.contrast[i]], point)[0]
        scale = float(total.abs().max()) / 5
        torch.testing.assert_close(ours[i - 1].double(), total / 5, rtol=0, atol=1e-4 * scale)


def test_does_not_depend_on_batches(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = SmoothGrad(7)
    whole = explainer.attribute(network, x, target, preprocessing, Room(40)).relevance
    for points in (5, 13):
        again = explainer.attribute(network, x, target, preprocessing, Room(points)).relevance
        assert float((again - whole).abs().max() / whole.abs().max()) <= 1e-6
    alone = explainer.attribute(network, x[3:4], target.take([3]), preprocessing, Room(3)).relevance
    assert float((alone - whole[3:4]).abs().max() / whole.abs().max()) <= 1e-6


def test_without_noise_it_is_the_gradient(network: nn.Module, x, target, preprocessing) -> None:
    ours = explain_model(network, x, target, SmoothGrad(1, 0.0), preprocessing).relevance
    point = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(target.select(network(point)).sum(), point)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "at least 1 sample, got samples=0"),
        ({"noise": -0.1}, "noise must be a finite share .* got -0.1"),
        ({"noise": float("nan")}, "noise must be a finite share"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SmoothGrad(**options)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Detached(), "Detached has no gradient with respect to its input .*: explain it with shapley or occlusion"),
        (Constant(), r"all-zero gradients is 4, at most 3 passes \(of 4: the output does not depend on the image\)"),
    ],
)
def test_networks_without_gradients(network: nn.Module, message: str, x: Tensor, preprocessing) -> None:
    target = Target(torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    with pytest.raises(ExplanationError, match=message) as caught:
        explain_model(network, x, target, SmoothGrad(2), preprocessing)
    assert "\n" not in str(caught.value)

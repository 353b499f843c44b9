"""Gradients are derivatives, alone and in a batch; explainers refuse a network whose backward pass is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from xaibench.attribution.differentiation import _derivative_error, derivative_checks, input_gradient
from xaibench.attribution.explain import explain_model
from xaibench.attribution.gradcam import GradCAM
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.layers import layer_relevance
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.smoothgrad import SmoothGrad
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError

from .conftest import unsettle

DIFFERENTIATING = (InputXGradient(), SmoothGrad(samples=3), IntegratedGradients(steps=4), GradCAM())


class ChannelsMovedLast(nn.Module):
    """Batch normalisation, then channels last: torch's gradient of a single image is wrong behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.norm(self.conv(x).relu())
        return self.fc(h.flatten(2).transpose(1, 2).mean(1))


class Wrong(torch.autograd.Function):
    """The identity, with a wrong backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str) -> Tensor:
        ctx.kind = kind
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return {
            "sign": -g,
            "size": 0.8 * g,
            "order": g.flip(2),
            "channels": g.roll(1, 1),
            "first": torch.cat([g[:1], g[1:].flip(3)]),
        }[ctx.kind], None


class Faulty(nn.Module):
    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(Wrong.apply(x, self.kind))
        return logits


class Kink(nn.Module):
    """The sum s of the pixels, and ten times as steep from s = 4 + 2e-6."""

    def forward(self, x: Tensor) -> Tensor:
        s = x.flatten(1).sum(1)
        return torch.stack([s + 9 * (s - 4 - 2e-6).relu(), torch.zeros_like(s)], dim=1)


@pytest.mark.parametrize(("slope", "right"), [(4.0, True), (2.0, False), (40.0, False)])
def test_a_kink_just_beside_an_image_hides_neither_right_nor_wrong_gradients(slope: float, right: bool) -> None:
    x, target = torch.ones(1, 1, 2, 2), Target(torch.tensor([0]), torch.tensor([1]))
    error, tolerance = _derivative_error(Kink(), x, target, x, torch.tensor([slope]).double(), torch.tensor([2.0]))
    assert (error <= tolerance) is right


class Single(nn.Module):
    """Computes in float32 whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network.float()(x.float())
        return logits.to(x.dtype)


class Keeping(nn.Module):
    """Keeps what it computed last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.kept = network, []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        self.kept[:] = [logits]
        return logits


class Stubborn(nn.Module):
    """Cannot be run in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected Float")
        logits: Tensor = self.network(x)
        return logits


def question(n: int) -> Target:
    return Target(torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64))


def numeric(model: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    """Directional derivative of z_0 - z_1 (N,), in float64."""
    twin, h = copy.deepcopy(model).double(), 1e-6
    with torch.no_grad():
        ends = [question(len(x)).select(twin(x.double() + sign * h * v.double())) for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2 * h)


def images(n: int, size: int, preprocessing: Preprocessing) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return preprocessing(torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8))


@pytest.fixture(params=["channels moved last", "efficientformer_l1", "xcit_nano_12_p16_224"])
def fragile(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    """A network whose gradient of a single image is wrong in torch 2.14, and its image size."""
    torch.manual_seed(0)
    if request.param == "channels moved last":
        return unsettle(ChannelsMovedLast()), 16
    options = {"img_size": 32} if request.param.startswith("xcit") else {}
    model = unsettle(timm.create_model(request.param, num_classes=4, **options))
    return model.requires_grad_(False), 32 if options else 224


def test_the_gradient_of_a_single_image_is_the_derivative(fragile, preprocessing: Preprocessing) -> None:
    model, size = fragile
    x = images(2, size, preprocessing)
    alone, both = input_gradient(model, x[:1], question(1)), input_gradient(model, x, question(2))
    assert float((alone - both[:1]).norm() / both[:1].norm()) < 1e-4
    v = alone / alone.norm() + torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(1))
    error = (alone * v).sum().double() - numeric(model, x[:1], v)
    assert float(error.abs() / alone.norm()) < 1e-3


@pytest.mark.parametrize("explainer", [*DIFFERENTIATING, LRP(composite="epsilon-plus")])
def test_maps_of_one_image_are_those_in_a_batch(explainer, preprocessing: Preprocessing) -> None:
    model, x = unsettle(ChannelsMovedLast()), images(3, 16, preprocessing)
    whole = explain_model(model, x, question(3), explainer, preprocessing, check=False).relevance
    for options in ({"batch_size": 1}, {"batch_size": 2}, {"memory": 1}):
        parts = explain_model(model, x, question(3), explainer, preprocessing, check=False, **options).relevance
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("lrp", [None, LRP(composite="epsilon-plus")])
def test_layers_of_one_image_are_those_in_a_batch(lrp: LRP | None, preprocessing: Preprocessing) -> None:
    model, x = unsettle(ChannelsMovedLast()), images(3, 16, preprocessing)
    whole = layer_relevance(model, x, question(3), lrp, preprocessing, ["conv"])["conv"].relevance
    alone = layer_relevance(model, x[1:2], question(1), lrp, preprocessing, ["conv"])["conv"].relevance
    assert alone.shape == whole[1:2].shape
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("explainer", DIFFERENTIATING)
@pytest.mark.parametrize("kind", ["sign", "size", "order", "channels", "first"])
@pytest.mark.parametrize("n", [1, 5])
def test_a_wrong_backward_pass_is_refused(explainer, kind, n, network, x, target, preprocessing) -> None:
    some = list(range(n))
    with pytest.raises(ExplanationError, match="gradient error against finite differences is") as caught:
        explain_model(Faulty(network, kind), x[:n], target.take(some), explainer, preprocessing)
    assert "\n" not in str(caught.value)


def test_a_wrong_gradient_is_refused_at_the_layers(network, x, target, preprocessing) -> None:
    network.layer3 = nn.Sequential(Faulty(network.layer3, "order"))
    with pytest.raises(ExplanationError, match="the gradient of ScaledResNet18 is not valid: gradient error"):
        layer_relevance(network, x, target, None, preprocessing, ["layer1"])


@pytest.mark.parametrize("wrap", [lambda m: m, Single, Stubborn, Keeping])
@pytest.mark.parametrize("pixels", ["noise", "black"])
def test_a_right_gradient_passes(wrap, pixels: str, network, x, target, preprocessing) -> None:
    """Also where a network cannot be copied or run in float64, and on flat images, whose max-pooling has ties."""
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(96, 4)).eval()
    given = x if pixels == "noise" else torch.zeros_like(x)
    for model in (network, pooled):
        for some in ([0, 1, 2, 3], [0]):
            checks = derivative_checks(wrap(model.requires_grad_(False)), given[some], target.take(some))
            assert all(check.passed for check in checks), checks


def test_a_constant_network_has_a_right_gradient(x: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    nn.init.zeros_(model[1].weight)
    assert [check.value for check in derivative_checks(model, x, question(5))] == [0, 0]


def test_the_checks_cost_few_passes(network, x, target, preprocessing) -> None:
    seen: list[tuple[torch.dtype, int]] = []
    network.register_forward_pre_hook(lambda _, args: seen.append((args[0].dtype, len(args[0]))))
    derivative_checks(network.requires_grad_(False), x[:4], target.take(range(4)))
    assert seen.count((torch.float64, 4)) <= 3
    assert [n for dtype, n in seen if dtype == torch.float32] == [4, 2]

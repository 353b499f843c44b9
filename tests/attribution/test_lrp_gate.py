from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.attribution.explain import explain
from xaibench.attribution.lrp import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError


class FunctionalResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.a(x))
        return self.head(self.pool(self.relu(self.b(h)) + h).flatten(1))


class FunctionalRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.b(F.relu(self.a(x))))).flatten(1))


class NormAfterFunctionalRelu(nn.Module):
    """Its modules stand in the order conv, norm, but a relu comes between: merging them is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)
        nn.init.constant_(self.norm.running_mean, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.norm(F.relu(self.conv(x)))).flatten(1))


class Attentive(nn.Module):
    """Patches, a transformer layer, a head: the shape of a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2))[:, 0])


def question(model: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(model(x))


def test_a_resnet_passes_with_errors_far_below_the_bounds(network: nn.Module, x, target: Target, preprocessing) -> None:
    uncovered, difference, conservation = LRP().validate(network, x, target, preprocessing)
    assert uncovered.value == 0
    assert 0 < difference.value < 3e-4
    assert conservation.value < 1e-4


def test_conservation_does_not_depend_on_the_stabilisers(network: nn.Module, x, target: Target, preprocessing) -> None:
    assert LRP(epsilon=0.01).validate(network, x, target, preprocessing)[2].passed
    with torch.no_grad():
        network.fc.weight.mul_(1e-5)
    assert LRP().validate(network, x, target, preprocessing)[2].passed


def test_a_resnet_without_canonizer_is_refused(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = LRP(canonizer="none")
    conservation = explainer.validate(network, x, target, preprocessing)[2]
    assert conservation.value > 100
    with pytest.raises(ExplanationError, match=r"LRP conservation error is \d+, at most 0.001 passes"):
        explain(network, x, target, explainer, preprocessing)


def _mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            FunctionalResidual,
            r"operations without an LRP rule is 1, .*add in FunctionalResidual.*conservation error is",
        ),
        (FunctionalRelu, r"operations without an LRP rule is 2, .*relu in FunctionalRelu"),
        (NormAfterFunctionalRelu, r"relative output difference is 0\.\d+, at most 0.001"),
        (Attentive, r"LRP of Attentive is not valid: operations without an LRP rule is \d+"),
        (_mobilenet, r"operations without an LRP rule is \d+, .*InvertedResidual.*conservation error is"),
    ],
)
def test_networks_that_lrp_does_not_hold_for_are_refused(build, message: str, x: Tensor, preprocessing) -> None:
    torch.manual_seed(0)
    model = build().eval()
    with pytest.raises(ExplanationError, match=message) as caught:
        explain(model, x, question(model, x), LRP(), preprocessing)
    assert "\n" not in str(caught.value)


def test_a_vision_transformer_is_refused(preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(model.heads.head.weight)
    images = preprocessing(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with pytest.raises(ExplanationError, match="layer_norm in LayerNorm"):
        explain(model, images, question(model, images), LRP(), preprocessing)


def test_a_network_that_is_silent_without_biases_is_refused(x: Tensor, preprocessing: Preprocessing) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 14, 4)).eval()
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(ExplanationError, match="LRP conservation error is nan"):
        explain(model, x, question(model, x), LRP(), preprocessing)

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox
from zennit.rules import Gamma
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from xaibench.attribution.explain import explain
from xaibench.attribution.lrp import LRP
from xaibench.attribution.rules import NonNegativeGamma
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError
from xaibench.models.pair import ClassSlice


def sequential(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        *([nn.BatchNorm2d(6)] if norm else []),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    layers += [
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ]
    return nn.Sequential(*layers).eval()


def by_zennit(model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, canonizers: list) -> Tensor:
    """zennit called directly, as its documentation shows: relevance starts as output times class mask."""
    low, high = preprocessing.bounds()
    composite = EpsilonGammaBox(low=low, high=high, epsilon=1e-6, gamma=1.0, canonizers=canonizers)
    mask = F.one_hot(target.label, 4).float() - F.one_hot(target.contrast, 4).float()
    with Gradient(model=model, composite=composite) as attributor:
        _, relevance = attributor(x.clone(), lambda output: output * mask)
    return relevance


def question(model: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(model(x))


def test_bit_equal_to_zennit_on_a_resnet(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain(network, x, target, LRP(), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(network, x, target, preprocessing, [ResNetCanonizer()]))
    assert torch.equal(ours.references["low"], preprocessing.bounds()[0])
    assert torch.equal(ours.references["high"], preprocessing.bounds()[1])


@pytest.mark.parametrize("norm", [True, False])
def test_bit_equal_to_zennit_on_a_sequential_network(norm: bool, x: Tensor, preprocessing: Preprocessing) -> None:
    model = sequential(norm)
    target = question(model, x)
    ours = explain(model, x, target, LRP(), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(model, x, target, preprocessing, [SequentialMergeBatchNorm()]))


def test_bit_equal_to_zennit_on_a_vgg(x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    model = torchvision.models.VGG(features, num_classes=4).eval()
    model.classifier = nn.Sequential(nn.Linear(6 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 4)).eval()
    target = question(model, x)
    ours = explain(model, x, target, LRP(), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(model, x, target, preprocessing, [VGGCanonizer()]))


def test_a_linear_model_is_explained_by_input_times_weight(x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4, bias=False))
    target = question(model, x)
    weight = model[1].weight.detach().double()
    wanted = x.double() * (weight[target.label] - weight[target.contrast]).view_as(x)
    ours = explain(model, x, target, LRP(epsilon=1e-9), preprocessing).relevance
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-6)


def test_sliced_logits_are_explained_like_the_whole_network(network: nn.Module, x: Tensor, preprocessing) -> None:
    sliced = ClassSlice(network, (3, 1))
    target = Target(torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x), dtype=torch.int64))
    whole = Target(target.label + 3, target.contrast)
    assert torch.equal(
        explain(sliced, x, target, LRP(), preprocessing).relevance,
        explain(network, x, whole, LRP(), preprocessing).relevance,
    )


def test_batches_do_not_change_the_maps(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    whole = explain(network, x, target, LRP(), preprocessing).relevance
    pieces = explain(network, x, target, LRP(), preprocessing, batch_size=2).relevance
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_lean_gamma_rule_equals_zennits(nonnegative: bool, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 5, 3, padding=1, bias=bias)
    value = torch.randn(3, 4, 6, 6)
    value = value.relu() if nonnegative else value
    upper = torch.randn(3, 5, 6, 6)
    results = []
    for rule in (Gamma(gamma=0.7), NonNegativeGamma(0.7).copy()):
        x = value.clone().requires_grad_()
        handle = rule.register(layer)
        (relevance,) = torch.autograd.grad(layer(x), x, grad_outputs=upper)
        handle.remove()
        results.append(relevance)
    assert torch.equal(*results)
    assert bool(results[0].any())


def test_zennit_alone_would_have_returned_those_maps(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                value.zero_()
        output = target.select(network(x))
    total = by_zennit(network, x, target, preprocessing, []).sum(dim=(1, 2, 3))
    torch.testing.assert_close(total / output, torch.full((5,), 256.0), rtol=0.02, atol=0)


def test_inputs_outside_the_box_are_refused(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    x[2, 0, 3, 3] = 7.0
    with pytest.raises(
        ExplanationError, match=r"input 2 has the value 7 in channel 0, but pixels 0..255 give -2 to 2:"
    ):
        explain(network, x, target, LRP(), preprocessing)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"composite": "epsilon-gama-box"}, UnknownNameError, "did you mean 'epsilon-gamma-box'"),
        ({"canonizer": "resnt"}, UnknownNameError, "did you mean 'resnet'"),
        ({"gamma": -1.0}, ConfigError, "gamma must be a finite number >= 0, got -1.0"),
        ({"gamma": float("nan")}, ConfigError, "gamma must be a finite number"),
        ({"epsilon": 0.0}, ConfigError, "epsilon must be a finite number > 0"),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LRP(**options)

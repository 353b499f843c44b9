from __future__ import annotations

import copy
import gc
import types
import weakref

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.lrp.missing_rules import Trail
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError
from xaibench.models.class_slice import ClassSlice
from xaibench.models.layer_outputs import tapped


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
    ours = explain_model(network, x, target, LRP(canonizer="resnet"), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(network, x, target, preprocessing, [ResNetCanonizer()]))
    assert torch.equal(ours.references["low"], preprocessing.bounds()[0])
    assert torch.equal(ours.references["high"], preprocessing.bounds()[1])


@pytest.mark.parametrize("norm", [True, False])
def test_bit_equal_to_zennit_on_a_sequential_network(norm: bool, x: Tensor, preprocessing: Preprocessing) -> None:
    model = sequential(norm)
    target = question(model, x)
    ours = explain_model(model, x, target, LRP(canonizer="sequential"), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(model, x, target, preprocessing, [SequentialMergeBatchNorm()]))


def test_bit_equal_to_zennit_on_a_vgg(x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    model = torchvision.models.VGG(features, num_classes=4).eval()
    model.classifier = nn.Sequential(nn.Linear(6 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 4)).eval()
    target = question(model, x)
    ours = explain_model(model, x, target, LRP(canonizer="vgg"), preprocessing)
    assert torch.equal(ours.relevance, by_zennit(model, x, target, preprocessing, [VGGCanonizer()]))


def test_a_linear_model_is_explained_by_input_times_weight(x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4, bias=False))
    target = question(model, x)
    weight = model[1].weight.detach().double()
    wanted = x.double() * (weight[target.label] - weight[target.contrast]).view_as(x)
    ours = explain_model(model, x, target, LRP(epsilon=1e-9), preprocessing).relevance
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-6)


def test_sliced_logits_are_explained_like_the_whole_network(network: nn.Module, x: Tensor, preprocessing) -> None:
    sliced = ClassSlice(network, (3, 1))
    target = Target(torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x), dtype=torch.int64))
    whole = Target(target.label + 3, target.contrast)
    assert torch.equal(
        explain_model(sliced, x, target, LRP(), preprocessing).relevance,
        explain_model(network, x, whole, LRP(), preprocessing).relevance,
    )


def test_batches_do_not_change_the_maps(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    whole = explain_model(network, x, target, LRP(), preprocessing).relevance
    pieces = explain_model(network, x, target, LRP(), preprocessing, batch_size=2).relevance
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-5)


class Keeps:
    """A forward hook that holds what it sees."""

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen = output


class KeepsFeatures(nn.Module):
    """A network that holds an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = sequential()[:-1], sequential()[-1]

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.body(x)
        return self.head(self.features)


def test_a_network_that_keeps_activations_is_explained_as_one_that_does_not(x: Tensor, preprocessing) -> None:
    plain, hooked = sequential(), sequential()
    hooked[0].register_forward_hook(Keeps())
    target = question(plain, x)
    wanted = explain_model(plain, x, target, LRP(), preprocessing).relevance
    for keeping in (KeepsFeatures().eval(), hooked):
        assert torch.equal(explain_model(keeping, x, target, LRP(), preprocessing).relevance, wanted)


def test_a_forward_of_the_networks_own_is_the_one_that_is_explained(x: Tensor, preprocessing) -> None:
    model = sequential()
    model.forward = types.MethodType(lambda self, x: 2 * nn.Sequential.forward(self, x), model)
    target = question(model, x)
    checks = LRP().validate(model, x, target, preprocessing)
    assert all(check.passed for check in checks)
    found = explain_model(model, x, target, LRP(), preprocessing)
    torch.testing.assert_close(found.measured["explained"].float(), target.select(model(x)))
    assert "forward" in vars(model)


def test_checks_keep_nothing_of_their_passes(x: Tensor, preprocessing, monkeypatch: pytest.MonkeyPatch) -> None:
    trails = []
    monkeypatch.setattr(
        "xaibench.attribution.lrp.canonised.Trail", lambda work: trails.append(weakref.ref(made := Trail(work))) or made
    )
    model = sequential()
    network = LRP()._canonised(model, preprocessing, x)
    network.covered(x)
    gc.collect()
    assert [trail() for trail in trails] == [None]


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


def fused(model: nn.Module) -> nn.Module:
    """`model` with torch's own fusion of each batch norm with the convolution registered before it."""
    model = copy.deepcopy(model)
    before = ""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name
        elif isinstance(module, nn.BatchNorm2d):
            model.set_submodule(before, fuse_conv_bn_eval(model.get_submodule(before), module))
            model.set_submodule(name, nn.Identity())
    return model


@pytest.mark.parametrize(
    ("options", "composite"),
    [
        ({}, lambda low, high, c: EpsilonGammaBox(low, high, 1e-6, 1.0, canonizers=c)),
        ({"gamma": 0.25, "epsilon": 0.1}, lambda low, high, c: EpsilonGammaBox(low, high, 0.1, 0.25, canonizers=c)),
        ({"composite": "epsilon-plus"}, lambda low, high, c: EpsilonPlus(canonizers=c)),
        ({"composite": "epsilon-plus-flat"}, lambda low, high, c: EpsilonPlusFlat(canonizers=c)),
        ({"composite": "alpha2-beta1", "epsilon": 0.01}, lambda low, high, c: EpsilonAlpha2Beta1(0.01, canonizers=c)),
    ],
)
def test_equal_to_zennit_on_the_fused_network(
    options: dict, composite, network: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing
) -> None:
    network, x = network.double(), x.double()
    ours = LRP(**options).attribute(network, x, target, preprocessing, Room(8))
    low, high = preprocessing.bounds()
    wanted = _run(composite(low, high, [ResNetCanonizer()]), fused(network), x, target)
    assert ours.relevance.dtype == torch.float64
    torch.testing.assert_close(ours.relevance, wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))
    assert set(ours.references) == ({"low", "high"} if LRP(**options).composite == "epsilon-gamma-box" else set())
    named = LRP(**options, canonizer="resnet").attribute(network, x, target, preprocessing, Room(8)).relevance
    wanted = _run(composite(low, high, [ResNetCanonizer()]), network, x, target)
    assert torch.equal(named, wanted)


def _run(composite: Composite, model: nn.Module, x: Tensor, target: Target) -> Tensor:
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        logits = modified(x)
        mask = F.one_hot(target.label, 4) - F.one_hot(target.contrast, 4)
        return torch.autograd.grad(logits, x, grad_outputs=logits.detach() * mask)[0]


def test_relevance_of_a_layer_is_the_gradient_at_its_tap(network, x: Tensor, target: Target, preprocessing) -> None:
    whole = LRP().attribute(network, x, target, preprocessing, Room(8)).relevance
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bias_free = LRP(epsilon=1e-12)
    with bias_free.modified(network, preprocessing) as copy_, tapped(copy_, ["layer2", "layer3.0.bn2"]) as outputs:
        x = x.clone().requires_grad_()
        logits = copy_(x)
        mask = F.one_hot(target.label, 4) - F.one_hot(target.contrast, 4)
        places = (x, outputs["layer2"], outputs["layer3.0.bn2"])
        relevance = torch.autograd.grad(logits, places, grad_outputs=logits.detach() * mask)
        assert [name for name, _ in copy_.named_modules()] == [name for name, _ in network.named_modules()]
    torch.testing.assert_close(relevance[0], whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))
    torch.testing.assert_close(logits, network(x.detach()), rtol=1e-4, atol=1e-5)
    assert [r.shape for r in relevance[1:]] == [place.shape for place in places[1:]]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network._forward_hooks


def test_relevance_is_conserved_from_layer_to_layer_without_biases(x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, bias=False), nn.SiLU(), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4, bias=False)]
    model = nn.Sequential(*layers, *head).double()
    with LRP().modified(model, preprocessing) as copy_, tapped(copy_, ["1", "4", "6"]) as outputs:
        logits = copy_(x.double().requires_grad_())
        upper = torch.rand_like(logits) * logits.detach()
        relevance = torch.autograd.grad(logits, list(outputs.values()), grad_outputs=upper)
    for part in relevance:
        torch.testing.assert_close(part.flatten(1).sum(1), upper.sum(1), rtol=1e-3, atol=1e-6)


def test_a_modified_copy_forgets_its_rules_when_the_block_ends(network, x: Tensor, preprocessing) -> None:
    copies, other = [], []

    def interrupted() -> None:
        with LRP().modified(network, preprocessing) as copy_:
            copies.append(copy_)
            other.append(torch.autograd.grad(copy_(x).sum(), x)[0])
            raise KeyError("stop")

    wanted = torch.autograd.grad(network(x.requires_grad_()).sum(), x)[0]
    with pytest.raises(KeyError, match="stop"):
        interrupted()
    assert not torch.allclose(other[0], wanted, rtol=0.01)
    torch.testing.assert_close(torch.autograd.grad(copies[0](x).sum(), x)[0], wanted, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.autograd.grad(network(x).sum(), x)[0], wanted)


def test_each_pass_of_a_modified_copy_stands_for_itself(network, x: Tensor, target, preprocessing) -> None:
    with LRP().modified(network, preprocessing) as copy_:
        x.requires_grad_()
        first, second = (torch.autograd.grad(copy_(x)[:, 0].sum(), x)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_bounds_are_of_no_concern_to_composites_without_a_box(network, x: Tensor, target, preprocessing) -> None:
    x[2, 0, 3, 3] = 7.0
    LRP(composite="epsilon-plus").check_input(x, preprocessing)
    with LRP(composite="epsilon-plus-flat").modified(network, preprocessing) as copy_:
        assert bool(torch.autograd.grad(copy_(x.requires_grad_()).sum(), x)[0].any())


def test_inputs_outside_the_box_are_refused(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    x[2, 0, 3, 3] = 7.0
    with pytest.raises(
        ExplanationError, match=r"input 2 has the value 7 in channel 0, but pixels 0..255 give -2 to 2:"
    ):
        explain_model(network, x, target, LRP(), preprocessing)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"composite": "epsilon-gama-box"}, UnknownNameError, "did you mean 'epsilon-gamma-box'"),
        ({"canonizer": "resnt"}, UnknownNameError, "did you mean 'resnet'"),
        ({"gamma": -1.0}, ConfigError, "gamma must be a finite number >= 0, got -1.0"),
        ({"gamma": float("nan")}, ConfigError, "gamma must be a finite number"),
        ({"epsilon": 0.0}, ConfigError, "epsilon must be a finite number > 0"),
        (
            {"composite": "epsilon-plus", "gamma": 0.5},
            ConfigError,
            "composite 'epsilon-plus' has no gamma rule, got gamma=0.5: leave gamma out, or use epsilon-gamma-box",
        ),
    ],
)
def test_bad_options(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LRP(**options)

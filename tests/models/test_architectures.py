from __future__ import annotations

import socket

import pytest
import timm
import torch
import torchvision
from torch import nn

from xaibench.errors import ConfigError, ModelError, UnknownNameError
from xaibench.models.architectures import build_model, known_models
from xaibench.models.checkpoints import state_hash
from xaibench.models.layer_outputs import tapped


def images(channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def test_the_cifar_form_is_torchvisions_with_another_stem() -> None:
    reference = torchvision.models.resnet18(num_classes=7)
    reference.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    model = build_model("resnet18-cifar", 7)
    own = {name: value.shape for name, value in model.state_dict().items()}
    assert own == {name: value.shape for name, value in reference.state_dict().items()}
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), reference.eval()(images()))


@pytest.mark.parametrize("name", ["resnet18:64-128-256-512", "resnet18@64"])
def test_the_imagenet_form_with_its_own_widths_is_resnet18(name: str) -> None:
    model = build_model(name, 5)
    reference = build_model("resnet18", 5)
    assert type(reference) is torchvision.models.ResNet
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(images(side=64)), reference.eval()(images(side=64)))


def test_widths_and_stem_are_the_channels_of_the_stages() -> None:
    model = build_model("resnet18-cifar:5-6-7-8@3", 4, in_channels=1)
    with torch.no_grad(), tapped(model.eval(), ["conv1", "layer1", "layer2", "layer3", "layer4"]) as outputs:
        logits = model(images(1))
    assert logits.shape == (2, 4)
    assert [tuple(v.shape[1:]) for v in outputs.values()] == [
        (3, 16, 16),
        (5, 16, 16),
        (6, 8, 8),
        (7, 4, 4),
        (8, 2, 2),
    ]


def test_the_stem_keeps_64_channels_unless_it_is_given() -> None:
    assert build_model("resnet18-cifar:8-8-8-8", 2).conv1.out_channels == 64  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["resnet18-cifar:4-4-4-4@4", "squeezenet1_1", "timm/mobilenetv4_conv_small_035"])
def test_the_seed_decides_the_weights_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = state_hash(build_model(name, 3, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert state_hash(build_model(name, 3, seed=1)) == first
    assert state_hash(build_model(name, 3, seed=2)) != first


@pytest.mark.parametrize("name", ["resnet18-cifar:56-56-40-40", "resnet18", "timm/mobilenetv4_conv_small_035"])
def test_torchs_initialisation_has_variance_one_third_of_the_inverse_fan_in(name: str) -> None:
    model = build_model(name, 5, seed=2, init="torch")
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        fan_in, weights = layer.weight[0].numel(), layer.weight.detach().double()
        assert weights.abs().max().item() <= fan_in**-0.5
        spread = 5 * (4 / 5 / weights.numel()) ** 0.5  # five standard errors of a uniform variable's mean square
        assert weights.square().mean().item() * 3 * fan_in == pytest.approx(1, abs=spread)
    assert len(layers) > 20
    assert state_hash(model) == state_hash(build_model(name, 5, seed=2, init="torch"))
    assert state_hash(model) != state_hash(build_model(name, 5, seed=2))


def test_the_architectures_own_initialisation_is_fan_out_and_the_default() -> None:
    model = build_model("resnet18-cifar", 5, seed=2)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            fan_out = layer.out_channels * layer.weight[0, 0].numel()
            assert layer.weight.square().mean().item() * fan_out / 2 == pytest.approx(1, abs=0.07)
    assert state_hash(model) == state_hash(build_model("resnet18-cifar", 5, seed=2, init="architecture"))
    with pytest.raises(UnknownNameError, match="unknown init 'pytorch': did you mean 'torch'"):
        build_model("resnet18-cifar", 5, init="pytorch")


def test_the_default_weights_are_those_that_they_were() -> None:
    """Sums in float64: the generator's draws are the same everywhere, a hash of them need not be."""
    model = build_model("resnet18-cifar:2-2-2-2@2", 3, seed=1)
    total = sum(value.double().abs().sum().item() for value in model.parameters())
    assert total == pytest.approx(224.9362941319123, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18-cifar:8-8-8", "'8-8-8' must be 4 positive integers, as in resnet18-cifar:56-56-40-40"),
        ("resnet18-cifar:8-8-8-0", "must be 4 positive integers"),
        ("resnet18-cifar:8-8-8--8", "must be 4 positive integers"),
        ("resnet18-cifar:8-8-8-x", "must be 4 positive integers"),
        ("resnet18-cifar:8-8-8-²", "must be 4 positive integers"),
        ("resnet18:", "'' must be 4 positive integers"),
        ("resnet18-cifar@", "'' must be 1 positive integer, as in"),
        ("resnet18-cifar:8-8-8-8@1.5", "'1.5' must be 1 positive integer, as in"),
    ],
)
def test_bad_widths(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(name, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet81", "resnet18"), ("resnet18_cifar", "resnet18-cifar"), ("vgg16bn", "vgg16_bn")],
)
def test_unknown_names_get_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown model '{name}': did you mean '{hint}'"):
        build_model(name, 3)


def test_one_class_is_no_classifier() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes, got 1"):
        build_model("resnet18", 1)


def test_a_torchvision_model_takes_three_channels() -> None:
    with pytest.raises(ModelError, match="'resnet34' takes 3 input channels, not 1: use resnet18-cifar"):
        build_model("resnet34", 3, in_channels=1)


def test_timm_models_by_name() -> None:
    model = build_model("timm/mobilenetv4_conv_small_035", 5, in_channels=1)
    assert model.eval()(images(1, side=32)).shape == (2, 5)
    assert model.conv_stem.in_channels == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timm/mobilenet4_conv_small", "timm/mobilenetv4_conv_small"),
        ("timm/resnet18.a1_in1k", "timm/resnet18"),
        ("mobilenetv4_conv_small", "timm/mobilenetv4_conv_small"),
    ],
)
def test_unknown_timm_names_get_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown model '{name}': did you mean '{hint}[\w.]*'\?"):
        build_model(name, 3)


def test_timm_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    build_model("timm/tf_efficientnet_lite0", 3)
    with pytest.raises(UnknownNameError):
        build_model("timm/hf-hub:timm/resnet18", 3)


def test_what_timm_cannot_build_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("no in_chans\nhere")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ModelError, match=r"'timm/resnet18' with 3 classes and 2 input channels \(no in_chans\): "):
        build_model("timm/resnet18", 3, in_channels=2)


def test_known_models_hold_ours_torchvisions_classifiers_and_timms() -> None:
    names = {"resnet18-cifar", "resnet50", "vgg16_bn", "timm/mobilenetv4_conv_small", "timm/efficientformerv2_s0"}
    assert names <= set(known_models())
    assert "fcn_resnet50" not in known_models()

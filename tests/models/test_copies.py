from __future__ import annotations

import pytest
import torch
from torch import nn

from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import private_copy, uncompiled, untrained
from xaibench.models.pair import ModelPair


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_compilation_is_left_behind() -> None:
    net = make()
    assert uncompiled(torch.compile(net, backend="eager")) is net
    assert uncompiled(net) is net
    for model in (torch.compile(net, backend="eager"), nn.Sequential(torch.compile(net, backend="eager"))):
        copy_ = private_copy(model)
        assert not any("_orig_mod" in name for name, _ in copy_.named_modules())
        assert not {id(p) for p in copy_.parameters()} & {id(p) for p in net.parameters()}
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(copy_(x), net(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_are_computed_in_each_pass(norm) -> None:
    net = make()
    norm(net[0])
    x = torch.randn(2, 3, 8, 8)
    net.eval()(x)
    copy_ = private_copy(net)
    assert torch.equal(copy_(x), net(x))
    copy_(x).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    classes = ("a", "b", "c", "d")
    pair = ModelPair.create(net, net, classes=classes, preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3), layers=())
    assert torch.equal(pair.teacher(x), net(x))


NAMES = ["resnet18-cifar:8-8-8-8@8", "timm/vit_tiny_patch16_224", "timm/mobilenetv4_conv_small", "squeezenet1_1"]


def trained(name: str) -> nn.Module:
    """A model whose parameters and running statistics are none that an initialisation gives."""
    model = build_model(name, 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_was_learned_is_left(name: str) -> None:
    model = trained(name)
    before, state = state_hash(model), torch.get_rng_state()
    fresh = untrained(model, 7)
    assert state_hash(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    for (key, old), new in zip(model.named_parameters(), fresh.parameters()):
        assert old.numel() == 1 or not torch.equal(old, new), key
    for module in fresh.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean.abs().max() == 0
            assert (module.running_var == 1).all()


@pytest.mark.parametrize("init", ["architecture", "torch"])
def test_a_model_is_drawn_anew_from_the_distribution_that_it_was_built_with(init: str) -> None:
    model = build_model("resnet18-cifar", 5, init=init)
    fresh = untrained(untrained(model, 1), 2)
    for name, value in model.named_parameters():
        if value.ndim == 4 and value.numel() > 1000:
            new = fresh.get_parameter(name)
            assert new.std().item() == pytest.approx(value.std().item(), rel=0.1)
            assert (new.abs().max() <= value[0].numel() ** -0.5) == (init == "torch")


def test_the_seed_decides_and_the_distribution_is_torchvisions() -> None:
    model = build_model("resnet18", 5)
    one, same, other = (untrained(model, seed) for seed in (1, 1, 2))
    assert state_hash(one) == state_hash(same) != state_hash(other)
    for name, value in model.named_parameters():
        if value.ndim == 4 and value.numel() > 1000:
            assert one.get_parameter(name).std().item() == pytest.approx(value.std().item(), rel=0.1)

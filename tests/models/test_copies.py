from __future__ import annotations

import pytest
import torch
from torch import nn

from xaibench.data.images import Preprocessing
from xaibench.models.copies import private_copy, uncompiled
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

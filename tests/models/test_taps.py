from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaibench.errors import ModelError, UnknownNameError
from xaibench.models.taps import layer_module, tapped


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


class Twins(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_outputs_are_those_of_the_layers(net: nn.Sequential) -> None:
    x = torch.randn(5, 3)
    with tapped(net, ["0", "1.0", "0"]) as outputs:
        y = net(x)
        assert hooks(net) == 2
    assert torch.equal(outputs["0"], net[0](x))
    assert torch.equal(outputs["1.0"], net[0](x).relu())
    assert torch.equal(y, net(x))
    assert list(outputs) == ["0", "1.0"]
    assert hooks(net) == 0


def test_outputs_belong_to_the_graph(net: nn.Sequential) -> None:
    with tapped(net, ["1.0"]) as outputs:
        y = net(torch.randn(5, 3))
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), outputs["1.0"])
    assert torch.allclose(gradient, net[1][1].weight[0].expand(5, 4))  # type: ignore[index]


def test_no_hook_stays_after_an_exception(net: nn.Sequential) -> None:
    with pytest.raises(KeyboardInterrupt), tapped(net, ["0", "1"]):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), tapped(net, ["0", "1"]):
        net(torch.randn(5, 99))
    assert hooks(net) == 0


def test_an_unknown_layer_has_a_suggestion_and_leaves_no_hook(net: nn.Sequential) -> None:
    with (
        pytest.raises(UnknownNameError, match=r"unknown layer of Sequential '1\.': did you mean"),
        tapped(net, ["0", "1."]),
    ):
        pass
    assert hooks(net) == 0
    with pytest.raises(UnknownNameError, match="unknown layer of Sequential ''"):
        layer_module(net, "")


def test_a_layer_without_a_tensor_is_refused() -> None:
    net = nn.Sequential(Twins())
    with pytest.raises(ModelError, match="layer '0' returns a tuple, not a tensor"), tapped(net, ["0"]):
        net(torch.ones(1))
    assert hooks(net) == 0

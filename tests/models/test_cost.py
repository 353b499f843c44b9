"""Parameters and multiply-accumulates against closed formulas; a measured model is left as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, ResNet

from xaibench.errors import ConfigError, ModelError
from xaibench.models.cost import model_cost

SIDE = 8


def macs(model: nn.Module, channels: int = 4, height: int = SIDE, width: int = SIDE) -> int:
    return model_cost(model, (channels, height, width), repeats=1).macs


class Attention(nn.Module):
    """The pixels are the tokens: queries from the first `queries` of them, keys and values from all."""

    def __init__(self, how: str, queries: int) -> None:
        super().__init__()
        self.how, self.queries = how, queries

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT[:, None]  # (N, 1 head, HW, C)
        query = tokens[:, :, : self.queries]
        if self.how == "fused":
            return nn.functional.scaled_dot_product_attention(query, tokens, tokens)
        if self.how == "einsum":
            weights = torch.einsum("nhqc,nhkc->nhqk", query, tokens).softmax(-1)
            return torch.einsum("nhqk,nhkc->nhqc", weights, tokens)
        return (query @ tokens.mT).softmax(-1) @ tokens


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    transposed=st.booleans(),
)
def test_a_convolution_costs_its_kernel_at_each_position(
    groups: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int,
    dilation: int,
    bias: bool,
    transposed: bool,
) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(groups * inputs, groups * outputs, kernel, stride, groups=groups, dilation=dilation, bias=bias)
    x = torch.zeros(1, groups * inputs, 9, 7)
    positions = (x if transposed else layer(x)).shape[2:].numel()
    assert macs(layer, groups * inputs, 9, 7) == positions * groups * inputs * outputs * kernel[0] * kernel[1]


@pytest.mark.parametrize("how", ["fused", "einsum", "matmul"])
@pytest.mark.parametrize("queries", [64, 5])
def test_attention_costs_its_two_products(how: str, queries: int) -> None:
    assert macs(Attention(how, queries)) == 2 * queries * SIDE**2 * 4


@pytest.mark.parametrize("gradients", [False, True])
def test_torchs_attention_layers_are_counted_where_they_are_fused_otherwise(gradients: bool) -> None:
    tokens, width = 4, SIDE**2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(gradients):
                out: Tensor = self.layer(x.flatten(2))
                return out

    assert macs(Net()) == tokens * 4 * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 16
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_network_costs_the_sum_of_its_layers() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    cost = model_cost(net, (3, 10, 12))
    assert cost.macs == 120 * 8 * 3 * 9 + 30 * 8 * 9 + 8 * 5
    assert cost.parameters == 8 * 3 * 9 + 8 + 2 * 8 + 8 * 9 + 8 * 5 + 5
    assert cost.latency_ms > 0
    assert re.fullmatch(r".+, \d+ threads?", cost.device)


@pytest.mark.parametrize(
    ("model", "shape", "parameters", "least", "most"),
    [
        # 1.8 G multiply-accumulates and 11.7 M parameters as published (He et al. 2016; torchvision)
        (lambda: ResNet(BasicBlock, [2, 2, 2, 2]), (3, 224, 224), 11_689_512, 1.81e9, 1.82e9),
        # ViT-Ti/16: 5.7 M parameters, 1.26 G (Touvron et al. 2021, with attention)
        (lambda: VisionTransformer(224, 16, 12, 3, 192, 768), (3, 224, 224), 5_717_416, 1.25e9, 1.27e9),
    ],
    ids=["ResNet-18", "ViT-Ti/16"],
)
def test_published_sizes_are_met(
    model: Callable[[], nn.Module], shape: tuple[int, int, int], parameters: int, least: float, most: float
) -> None:
    cost = model_cost(model(), shape, repeats=1)
    assert cost.parameters == parameters
    assert least < cost.macs < most


def test_one_row_products_and_shared_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.second = self.first
            self.weight = nn.Parameter(torch.ones(16))

        def forward(self, x: Tensor) -> Tensor:
            flat = self.second(self.first(x.flatten()))
            row: Tensor = torch.outer(flat, flat) @ self.weight
            return torch.mul(row[None], flat.dot(self.weight))

    cost = model_cost(Net(), (1, 4, 4))
    assert (cost.parameters, cost.macs) == (16 * 17 + 16, 3 * 16 * 16 + 16)


def test_the_model_and_the_random_state_are_left_as_they_were(footprint: Callable[[nn.Module], object]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(4 * 36, 2)).train()
    net[0].eval()
    before, state, random = footprint(net), copy.deepcopy(net.state_dict()), torch.get_rng_state()
    first, second = model_cost(net, (3, 8, 8)), model_cost(net, (3, 8, 8))
    assert (first.macs, first.parameters) == (second.macs, second.parameters)
    assert footprint(net) == before
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_what_cannot_be_measured_is_said_in_one_line() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ModelError, match="cannot process 5x5 images with 3 channels"):
        model_cost(net, (3, 5, 5))
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ConfigError, match="must be at least 1, got shape"):
        model_cost(net, (3, 0, 5))
    with pytest.raises(ConfigError, match="repeats 0"):
        model_cost(net, (3, 5, 5), repeats=0)
    with pytest.raises(ModelError, match="shape must be"):
        model_cost(net, 5)  # type: ignore[arg-type]

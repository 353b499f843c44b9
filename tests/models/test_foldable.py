from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from xaibench.models.architectures import build_model
from xaibench.models.folding import fold, foldable, folded


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.1, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return module.eval()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), (2, 3, 8, 8)),
        (nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.1), (2, 4, 8, 8)),
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 8)),
        (nn.Linear(3, 4), nn.BatchNorm1d(4), (2, 3)),
    ],
)
def test_a_folded_layer_equals_torchs_fusion(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    pair = shaken(nn.Sequential(layer, norm).double())
    x = torch.randn(*shape, dtype=torch.float64)
    wanted = pair(x)
    other = (fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval)(pair[0], pair[1])
    assert foldable(pair, x) == [("0", "1")]
    fold(pair[0], pair[1])
    torch.testing.assert_close(pair[0](x), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pair[0].weight, other.weight, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(pair[0].bias, other.bias, rtol=1e-10, atol=1e-10)
    assert torch.equal(pair(x), pair[0](x))


def test_a_norm_without_scale_and_shift_is_folded() -> None:
    pair = shaken(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)).double())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    wanted = pair(x)
    fold(pair[0], pair[1])
    torch.testing.assert_close(pair(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_model("resnet18-cifar:8-8-8-8@8", 4),
        lambda: torchvision.models.mobilenet_v2(num_classes=4),
        lambda: timm.create_model("mobilenetv4_conv_small", num_classes=4),
        lambda: timm.create_model("efficientnet_b0", num_classes=4),
    ],
)
def test_every_norm_of_these_networks_can_be_folded(build) -> None:
    model = shaken(build().double())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    wanted = model(x)
    pairs = foldable(model, x)
    assert len(pairs) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for layer, norm in pairs:
        fold(model.get_submodule(layer), model.get_submodule(norm))
    torch.testing.assert_close(model(x), wanted, rtol=1e-9, atol=1e-10 * float(wanted.detach().abs().max()))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)


class ReadTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return self.norm(z) + z


class ReadByAFunction(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return torch.cat([self.norm(z), z.relu()])


class ReluBetween(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class NormTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)))


class ConvTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


class StandardisedWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.conv.weight - self.conv.weight.mean(), self.conv.bias))


class NoStatistics(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), None, None, training=True)


class WithoutItsBias(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.conv2d(x, self.conv.weight, None, padding=1))


class WithoutScale(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)


class Overwritten(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        z[:, 1] = 0
        return self.norm(z)


class OverwrittenByAHook(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(lambda _module, _x, z: z.__setitem__((slice(None), 1), 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class WeightUsedAgain(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(self.norm(self.conv(x)), self.conv.weight)


class WeightMeasured(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) / self.conv.weight.norm()


class ScaleReadElsewhere(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.norm.weight.abs().max()


class StatisticsReadElsewhere(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) - self.norm.running_mean.mean()


class ReturnedToo(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.conv(x)
        return self.norm(z), z


class ReadThroughNumpy(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return self.norm(z) * float(z.numpy().max())


READ_ELSEWHERE = [
    ReadTwice,
    ReadByAFunction,
    ReluBetween,
    NormTwice,
    ConvTwice,
    StandardisedWeight,
    WithoutItsBias,
    WithoutScale,
    Overwritten,
    OverwrittenByAHook,
    WeightUsedAgain,
    WeightMeasured,
    ScaleReadElsewhere,
    StatisticsReadElsewhere,
    ReturnedToo,
    ReadThroughNumpy,
]


@pytest.mark.parametrize("kind", [*READ_ELSEWHERE, NoStatistics])
def test_what_folding_would_change_is_left_alone(kind: type[Net]) -> None:
    model, x = shaken(kind()).requires_grad_(False), torch.randn(2, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    assert foldable(model, x) == []
    torch.testing.assert_close(folded(model, x)(x), model(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_call_without_bias_is_told_from_a_layer_without_one() -> None:
    class Bare(WithoutItsBias):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    model, x = shaken(Bare()), torch.randn(2, 3, 8, 8)
    assert foldable(model, x) == []
    assert model.conv.bias is None
    assert len(foldable(nn.Sequential(model.conv, model.norm), x)) == 1
    assert model.conv.bias is None


@pytest.mark.parametrize("how", [parametrizations.weight_norm, spectral_norm])
def test_layers_whose_weight_is_made_anew_are_left_alone(how) -> None:
    """Their weights are tensors of a moment, whose places in memory others take."""
    for seed in range(10):
        layers = [part for _ in range(4) for part in (how(nn.Conv2d(3, 3, 3, padding=1)), nn.BatchNorm2d(3), nn.ReLU())]
        model, x = shaken(nn.Sequential(*layers), seed), torch.randn(2, 3, 8, 8)
        assert foldable(model, x) == []
        assert torch.equal(folded(model, x)(x), model(x))

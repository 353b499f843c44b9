from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model


def unsettle(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics and all layers biases as training would: nothing is trivially 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rpartition(".")[2]
            if last in ("bias", "running_mean"):
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
            elif last == "running_var" or value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model.eval()


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.2))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return unsettle(build_model("resnet18-cifar:8-8-8-8@8", 4))


@pytest.fixture
def x(preprocessing: Preprocessing) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return preprocessing(torch.randint(0, 256, (5, 3, 16, 16), generator=generator, dtype=torch.uint8))


@pytest.fixture
def target(network: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(network(x))


@pytest.fixture
def linear() -> nn.Module:
    """Logits W x + b of images 3x16x16, four classes."""
    generator = torch.Generator().manual_seed(2)
    layer = nn.Linear(3 * 16 * 16, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def slope(linear: nn.Module, target: Target) -> Tensor:
    """(5, 3, 16, 16): the gradient of each image's explained output under `linear`, wherever it is taken."""
    weight = linear[1].weight.detach()
    return (weight[target.label] - weight[target.contrast]).unflatten(1, (3, 16, 16))

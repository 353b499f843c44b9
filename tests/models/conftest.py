from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer


@pytest.fixture
def tiny_vit() -> Callable[..., VisionTransformer]:
    """tiny_vit(layers=4) -> torchvision's ViT for 16x16 images: 4x4 patches, a class token, 8 channels, 5 classes."""

    def make(layers: int = 4) -> VisionTransformer:
        torch.manual_seed(0)
        model = VisionTransformer(16, 4, layers, 2, 8, 16, num_classes=5)
        nn.init.normal_(model.heads.head.weight)  # type: ignore[arg-type,union-attr]
        return model.eval()

    return make


@pytest.fixture
def noise() -> Callable[..., Tensor]:
    """noise(2, 3, 16, 16, seed=0) -> standard normal values."""

    def make(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)

    return make


@pytest.fixture
def footprint() -> Callable[[nn.Module], tuple[object, ...]]:
    """footprint(model) -> everything that watching a model must not change: modes, hooks, values of its state."""

    def describe(model: nn.Module) -> tuple[object, ...]:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        modes = [m.training for m in model.modules()]
        state = {**model.state_dict(), **dict(model.named_buffers())}
        return hooks, modes, [(k, v.clone().double().sum().item(), v.requires_grad) for k, v in state.items()]

    return describe

"""Untrained copies of a model."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["reinitialised"]


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model` with fresh weights drawn from `seed`; `model` and the global random state are left alone.

    Convolutions are drawn from He's normal distribution (fan-out), as in torchvision's ResNets; other layers by their
    own `reset_parameters`, with running statistics anew. Parameters that no layer resets (a ViT's position embedding,
    the scales of a block) keep their values in random order.
    """
    fresh = copy.deepcopy(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    order = torch.randperm(parameter.numel()).to(parameter.device)
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return fresh

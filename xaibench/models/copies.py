"""Copies of models that share nothing with the original, trained and untrained."""

from __future__ import annotations

import copy
import threading

import torch
from torch import Tensor, nn

from xaibench.validation import checked

__all__ = ["changing", "private_copy", "uncompiled", "untrained"]

changing = threading.RLock()  # held by who changes a model's hooks or modes, or copies it, which reads them one by one


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that `torch.compile` was given, itself if it was not compiled."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy, without compilation, also of models that hold weights which they compute (`weight_norm`).

    Raises RuntimeError or TypeError, as `copy.deepcopy` does, for a model that keeps results with gradients elsewhere.
    """
    model = uncompiled(model)
    held = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    computed = {id(value): value.detach().clone() for value in held if not value.is_leaf}  # anew in each pass
    with changing:
        work = copy.deepcopy(model, computed)
    for name, module in list(work.named_modules()):
        if uncompiled(module) is not module:
            work.set_submodule(name, uncompiled(module))
    return work


@checked
def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of `model` with fresh weights drawn from `seed`: the same architecture, nothing learned.

    Convolutions are drawn from He's normal distribution (fan-out), as in torchvision's ResNets; other layers by their
    own `reset_parameters`, with running statistics anew. Parameters that no layer resets (a ViT's position embedding,
    the scales of a block) keep their values in random order. All draws are made on the CPU, so that a seed gives the
    same weights on every device. `model` and torch's global generators are left as they were.
    """
    home = next((value.device for value in model.parameters()), torch.device("cpu"))
    fresh = private_copy(model).cpu()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    order = torch.randperm(parameter.numel())
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return fresh.to(home)

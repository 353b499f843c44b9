"""Copies of models that share nothing with the original, trained and untrained."""

from __future__ import annotations

import copy
import threading

import torch
from torch import Tensor, nn

from xaibench.validation import check_seed, checked

__all__ = ["INITIALISATIONS", "changing", "private_copy", "reset_layers", "uncompiled", "untrained"]

INITIALISATIONS = ("architecture", "torch")

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

    Layers are drawn by `reset_layers`, then convolutions from He's normal distribution (fan-out), as in torchvision's
    ResNets; not where `build_model(..., init="torch")` made the model. Parameters that no layer resets (a ViT's
    position embedding, the scales of a block) keep their values in random order. All draws are made on the CPU, so that
    a seed gives the same weights on every device. `model` and torch's global generators are left as they were.
    """
    home = next((value.device for value in model.parameters()), torch.device("cpu"))
    fresh = private_copy(model).cpu()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(check_seed(seed))
        for module in fresh.modules():
            if not _reset(module):
                for parameter in module.parameters(recurse=False):
                    order = torch.randperm(parameter.numel())
                    parameter.copy_(parameter.flatten()[order].view_as(parameter))
            if isinstance(module, nn.Conv2d) and getattr(fresh, "initialisation", "architecture") != "torch":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return fresh.to(home)


def reset_layers(model: nn.Module) -> None:
    """Draw each layer's parameters by its own `reset_parameters`, from torch's global generator, in place.

    That is PyTorch's default: convolutions and linear layers uniform with variance 1 / (3 fan_in) (He's uniform with
    a = sqrt 5), normalisations 1 and 0 with running statistics anew. What no layer resets stays as it is.
    """
    for module in model.modules():
        _reset(module)
    model.initialisation = "torch"  # type: ignore[assignment]


def _reset(module: nn.Module) -> bool:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()
    return callable(reset)

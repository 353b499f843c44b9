"""Copies of models that share nothing with the original."""

from __future__ import annotations

import copy

from torch import Tensor, nn

__all__ = ["private_copy", "uncompiled"]


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
    work = copy.deepcopy(model, computed)
    for name, module in list(work.named_modules()):
        if uncompiled(module) is not module:
            work.set_submodule(name, uncompiled(module))
    return work

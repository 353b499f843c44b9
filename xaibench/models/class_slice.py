"""A classifier's logits restricted to some of its classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaibench.errors import ModelError, unknown_name
from xaibench.models.logits import forward_logits

__all__ = ["ClassSlice", "class_indices", "sliced", "unsliced"]


class ClassSlice(nn.Module):
    """A classifier whose logits are those of `network` at `indices`, in that order: (N, K)."""

    indices: Tensor

    def __init__(self, network: nn.Module, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("indices", torch.tensor(indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return forward_logits(self.network, x)[:, self.indices]


def sliced(model: nn.Module, have: tuple[str, ...], want: tuple[str, ...]) -> nn.Module:
    """A classifier of the classes `have` as one of `want`: the model itself where they are the same.

    A slice of a slice is one of the whole network, to which layer names refer.
    """
    if have == want:
        return model
    places = class_indices(have, want)
    if isinstance(model, ClassSlice):
        return ClassSlice(model.network, tuple(model.indices[list(places)].tolist())).eval()
    return ClassSlice(model, places).eval()


def unsliced(model: nn.Module) -> nn.Module:
    """The model without its class slice: the module that layer names refer to."""
    return model.network if isinstance(model, ClassSlice) else model


def class_indices(have: tuple[str, ...], want: tuple[str, ...]) -> tuple[int, ...]:
    """Positions of the class names `want` in `have`.

    Raises UnknownNameError with the nearest name for one that is missing, ModelError for one that two logits have.
    """
    for name in want:
        if name not in have:
            raise unknown_name("class of the teacher", name, have)
        if have.count(name) > 1:
            places = [i for i, other in enumerate(have) if other == name]
            raise ModelError(
                f"the teacher's classes {places[0]} and {places[1]} are both named '{name}': give each its own name"
            )
    return tuple(map(have.index, want))

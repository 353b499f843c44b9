"""Forward passes in which autograd propagates relevance instead of gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.attribution.lrp.operations import handler_of, name_of
from xaibench.attribution.lrp.propagation import Propagation
from xaibench.models.folding import fold, foldable

__all__ = ["RelevanceMode", "fold_norms", "shared_copy"]


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` whose modules and parameters are new but share the memory of the original's values."""
    shared: dict[int, Tensor] = {id(value): value.detach() for value in model.buffers()}
    shared |= {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in model.parameters()}
    return copy.deepcopy(model, shared)


def fold_norms(model: nn.Module, twin: nn.Module, x: Tensor) -> None:
    """Fold batch normalisations of `model` into the layers before them, in place; its parameters are made anew.

    twin  a copy of it, which is run on the first image of x (N, C, H, W) to see what can be folded
    """
    for layer, norm in foldable(twin, x[:1]):
        fold(model.get_submodule(layer), model.get_submodule(norm))


class RelevanceMode(Propagation):
    """A torch mode: the backward pass of what is computed inside propagates relevance.

    Rules are attached to torch functions, not to modules, so that it does not matter where a network calls them.
    Convolutions and linear layers have the rules of the composite. Other operations have one of these:

    epsilon rule  R_i = x_i sum_j (dy_j / dx_i) R_j / (y_j + stabiliser sign(y_j)): sums and differences, means,
                  average pooling, unfolded batch normalisation; layer normalisation with 1/sigma held constant;
                  with attention "constant", attention (fused, explicit, nn.MultiheadAttention) with its weights held
                  constant
    identity      R_i = R_i: activations, multiplication by a constant, normalisation to unit length with the length
                  held constant, and a in a x gate, where the gate is the output of a (hard) sigmoid or a softmax and
                  gets no relevance

    With attention "attnlrp" relevance passes the softmax by `TaylorSoftmax`, and a matrix product of two signals hands
    half of what the epsilon rule gives to each.

    Added constants (biases, class tokens, position embeddings) absorb their share of the relevance, and stabilisers
    theirs: `books.Books` says how much.

    Operations without a rule pass on their gradient. That is right for those that only move values;
    `missing_rules.Trail` counts the others if `trail` is set.

    A forward pass raises ExplanationError where the composite has a box rule and the first convolution reads something
    else than the images or a rearrangement of them (views, flips, padding): the bounds of its input are not known then.
    """

    @contextmanager
    def installed(self, model: nn.Module, fold_first: bool = True) -> Iterator[nn.Module]:
        """Within the block, forward passes of `model` run in this mode.

        The first pass folds batch normalisations into the layers before them. `model` must be a private copy: its
        modules get new parameters, while the old ones keep their values.

        fold_first  False for a model that was folded before
        """
        plain, twin = model.forward, [shared_copy(model)] if fold_first else []  # without hooks that the user may add
        own = vars(model).get("forward")

        def forward(x: Tensor) -> Tensor:
            if twin:
                fold_norms(model, twin.pop(), x)
            self.parameters = frozenset(value.untyped_storage().data_ptr() for value in model.parameters())
            self.start(x)
            with self:
                logits: Tensor = plain(x)
            self.end()
            return logits

        model.forward = forward
        try:
            yield model
        finally:
            del model.forward
            if own is not None:
                model.forward = own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        handler = handler_of(func)
        if handler is not None and torch.is_grad_enabled():
            result = handler(self, func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if self.trail is not None and isinstance(result, Tensor) and result.grad_fn is not None:
            self.trail.note(result, name_of(func), args)
        return result

"""Batch normalisation folded into the convolution before it: the same function of the input, in less time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from xaibench.models.classes import unsliced
from xaibench.models.taps import Call, observe

__all__ = ["folded"]

_FOLD = {
    nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval),
    nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval),
}
_TOLERANCE = 1e-4


def folded(model: nn.Module, x: Tensor, keep: Collection[str] = ()) -> nn.Module:
    """A copy of `model` in evaluation mode in which every batch normalisation that alone follows a convolution or
    linear layer is folded into it: W' = W s, b' = (b - mean) s + shift with s = scale / sqrt(var + eps).

    x     (N, C, H, W), a few inputs: one forward pass tells what follows what, another that nothing else changed
    keep  names of layers (of the unsliced network) whose own output must stay what it is

    Module names stay; a folded batch normalisation becomes an Identity. A network that computes something else once it
    is folded (it uses a convolution's output twice, say) comes back as an unfolded copy.
    """
    plain = copy.deepcopy(model).eval()
    work = copy.deepcopy(plain)
    network = unsliced(work)
    for before, after in _pairs(observe(unsliced(plain), x)):
        if before not in keep:
            layer, norm = network.get_submodule(before), network.get_submodule(after)
            network.set_submodule(before, _FOLD[type(layer)][1](layer, norm))  # type: ignore[operator]
            network.set_submodule(after, nn.Identity())
    with torch.no_grad():
        wanted, got = plain(x), work(x)
    return work if float((got - wanted).abs().max()) <= _TOLERANCE * float(wanted.abs().max()) else plain


def _pairs(calls: Sequence[Call]) -> list[tuple[str, str]]:
    # (layer, batch norm) of modules that are called once each, the one with the other's very output.
    times = Counter(call.module for call in calls)
    made = {id(call.output): call for call in calls if type(call.module) in _FOLD and times[call.module] == 1}
    leaves = (call for call in calls if call.input is not None and next(call.module.children(), None) is None)
    read = Counter(id(call.input) for call in leaves)
    pairs = []
    for call in calls:
        source = made.get(id(call.input))
        if source is not None and type(call.module) is _FOLD[type(source.module)][0] and times[call.module] == 1:
            norm = call.module
            if read[id(call.input)] == 1 and norm.running_mean is not None:
                pairs.append((source.name, call.name))
    return pairs

"""Batch normalisation folded into the layer before it: the same function of the input, in less time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from xaibench.models.classes import unsliced

__all__ = ["fold", "foldable", "folded"]

_AFFINE = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
    F.linear: nn.Linear,
}
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def foldable(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Names (layer, batch normalisation) of the pairs in which the second alone reads what the first gives.

    Found by running `model`, in evaluation mode, on x (N, C, H, W): it does not matter where in the network the two
    stand nor what else happens inside the modules, as in timm's BatchNormAct2d. Modules that run more than once are
    left out.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad(), _Trace(model) as trace:
        model(x)
    return [(names[layer], names[norm]) for layer, norm in trace.pairs()]


@torch.no_grad()
def fold(layer: Any, norm: Any) -> None:
    """Make `layer` compute norm(layer(x)), norm in evaluation mode, and `norm` the identity; in place.

    W' = s W, b' = s (b - mean) + shift with s = scale / sqrt(variance + eps), computed in float64.

    layer  a convolution or linear layer, not transposed
    norm   a batch normalisation with running statistics
    """
    weight, mean, variance = layer.weight, norm.running_mean, norm.running_var
    scale = (variance.double() + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = 0 if norm.bias is None else norm.bias
    bias = scale * ((0 if layer.bias is None else layer.bias) - mean.double()) + shift
    folded = torch.mul(weight, scale.view(-1, *[1] * (weight.ndim - 1)), out=torch.empty_like(weight))
    layer.weight = nn.Parameter(folded, requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
    norm.weight = norm.bias = None
    norm.running_mean, norm.running_var, norm.eps = torch.zeros_like(mean), torch.ones_like(variance), 0.0


def folded(model: nn.Module, x: Tensor, keep: Collection[str] = ()) -> nn.Module:
    """A copy of `model` in evaluation mode in which every batch normalisation that can be is folded; names stay.

    x     (N, C, H, W), a few inputs
    keep  names of layers (of the unsliced network) whose own output must stay what it is
    """
    work = copy.deepcopy(model).eval()
    network = unsliced(work)
    for before, after in foldable(network, x):
        if before not in keep:
            norm = network.get_submodule(after)
            fold(network.get_submodule(before), norm)
            if type(norm) in _PLAIN:  # timm's also activate
                network.set_submodule(after, nn.Identity())
    return work


class _Trace(TorchFunctionMode):
    """Takes note of which layer's output each batch normalisation of a forward pass reads, and who else does."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {id(m.weight): m for m in model.modules() if isinstance(m, tuple(_AFFINE.values()))}
        self.norms = {id(m.running_mean): m for m in model.modules() if isinstance(m, _BatchNorm)}
        self.runs: Counter[nn.Module] = Counter()
        self.readers: Counter[int] = Counter()
        self.made: dict[int, tuple[nn.Module, Tensor]] = {}
        self.read: dict[nn.Module, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) for part in (result if isinstance(result, (tuple, list)) else (result,))):
            for value in _tensors((args, kwargs)):
                self.readers[id(value)] += id(value) in self.made
        if func in _AFFINE and len(args) > 1 and id(args[1]) in self.layers:
            layer = self.layers[id(args[1])]
            self.runs[layer] += 1
            if isinstance(layer, _AFFINE[func]) and result.ndim == args[1].ndim:
                self.made[id(result)] = layer, result
        if func is F.batch_norm and len(args) > 1 and id(args[1]) in self.norms:
            norm = self.norms[id(args[1])]
            self.runs[norm] += 1
            if id(args[0]) in self.made:
                self.read[norm] = id(args[0])
        return result

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        for norm, source in self.read.items():
            if self.readers[source] == 1:
                layer = self.made[source][0]
                if self.runs[layer] == self.runs[norm] == 1 and norm.running_mean is not None and not norm.training:
                    yield layer, norm


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)

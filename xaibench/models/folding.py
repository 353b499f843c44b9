"""Batch normalisation folded into the layer before it: the same function of the input, in less time."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from xaibench.models.class_slice import unsliced
from xaibench.precision import full_precision

__all__ = ["fold", "foldable", "folded"]

_AFFINE = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
    F.linear: nn.Linear,
}
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FACTS = (bool, int, str, torch.Size, torch.dtype, torch.device, torch.layout)
_TOLERANCE = 1e-4

_log = logging.getLogger(__name__)


def foldable(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Names (layer, batch normalisation) of the pairs in which the second alone reads what the first gives.

    Found by running `model`, in evaluation mode, on x (N, C, H, W): it does not matter where in the network the two
    stand nor what else happens inside the modules, as in timm's BatchNormAct2d. Modules that run more than once are
    left out, and those of which anything else reads a parameter or a statistic.
    """
    names = {module: name for name, module in model.named_modules()}
    with torch.no_grad(), _zero_biases(model), _Trace(model) as trace:
        trace.count(model(x.clone()))  # which may work in place
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


@full_precision()
def folded(model: nn.Module, x: Tensor, keep: Collection[str] = ()) -> nn.Module:
    """A copy of `model` in evaluation mode in which every batch normalisation that can be is folded; names stay.

    x     (N, C, H, W), a few inputs
    keep  names of layers (of the unsliced network) whose own output must stay what it is

    Returns an unfolded copy if the folded one's outputs for x differ from those of `model` by more than 1e-4 of the
    largest, compared in full float32.
    """
    plain = copy.deepcopy(model).eval()
    quick = copy.deepcopy(plain)
    network = unsliced(quick)
    for before, after in foldable(network, x):
        if before not in keep:
            norm = network.get_submodule(after)
            fold(network.get_submodule(before), norm)
            if type(norm) in _PLAIN:  # timm's also activate
                network.set_submodule(after, nn.Identity())
    if _computes_the_same(network, unsliced(plain), x):
        return quick
    _log.info("batch normalisation is not folded: %s would compute something else", type(unsliced(model)).__name__)
    return plain


@torch.no_grad()
def _computes_the_same(quick: nn.Module, plain: nn.Module, x: Tensor) -> bool:
    wanted = list(_tensors(plain(x.clone())))
    try:
        found = list(_tensors(quick(x.clone())))
    except (AttributeError, TypeError, RuntimeError):  # it reads what a batch normalisation held
        return False
    return len(found) == len(wanted) and all(
        bool((a - b).abs().max() <= _TOLERANCE * b.abs().max()) for a, b in zip(found, wanted) if b.numel()
    )


@contextmanager
def _zero_biases(model: nn.Module) -> Iterator[None]:
    """Within the block, layers without bias have one of zeros: calls that hand on the layer's bias can be told."""
    bare: list[Any] = [m for m in model.modules() if _is_affine(m) and m._parameters.get("bias", m) is None]
    try:
        for layer in bare:
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)), requires_grad=False)
        yield
    finally:
        for layer in bare:
            layer.bias = None


def _is_affine(module: nn.Module) -> bool:
    """A layer with a weight of its own, not one that a parametrisation makes anew at each call."""
    return isinstance(module, tuple(_AFFINE.values())) and module._parameters.get("weight") is not None


class _Trace(TorchFunctionMode):
    """Takes note of which layer's output each batch normalisation of a forward pass reads, and who else does."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {id(m.weight): m for m in model.modules() if _is_affine(m)}
        self.norms = {id(m.running_mean): m for m in model.modules() if _has_statistics(m)}
        self.runs: Counter[nn.Module] = Counter()
        held = [value for m in (*self.layers.values(), *self.norms.values()) for value in _own(m)]
        self.readers = {id(value): 0 for value in held}
        self.made: dict[int, tuple[nn.Module, Tensor]] = {}
        self.read: dict[nn.Module, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _is_fact(func, result):
            self.count((args, kwargs))
        if func in _AFFINE and len(args) > 1 and id(args[1]) in self.layers:
            layer = self.layers[id(args[1])]
            self.runs[layer] += 1
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if isinstance(layer, _AFFINE[func]) and bias is layer.bias and result.ndim == args[1].ndim:
                self.made[id(result)] = layer, result
                self.readers[id(result)] = 0
        if func is F.batch_norm and len(args) > 1 and id(args[1]) in self.norms:
            norm = self.norms[id(args[1])]
            self.runs[norm] += 1
            if id(args[0]) in self.made and _is_own_call(norm, *args, **kwargs):
                self.read[norm] = id(args[0])
        return result

    def count(self, values: Any) -> None:
        """One more reader of each tensor in `values` that is watched."""
        for value in _tensors(values):
            if id(value) in self.readers:
                self.readers[id(value)] += 1

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        for norm, source in self.read.items():
            layer, result = self.made[source]
            alone = all(self.readers[id(value)] == 1 for value in (result, *_own(layer), *_own(norm)))
            if alone and self.runs[layer] == self.runs[norm] == 1 and not norm.training:
                yield layer, norm


def _own(module: nn.Module) -> list[Tensor]:
    """The parameters and statistics that folding changes."""
    names = ("weight", "bias", "running_mean", "running_var")
    return [value for name in names if (value := getattr(module, name, None)) is not None]


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module._buffers.get("running_mean") is not None


def _is_fact(func: Any, result: Any) -> bool:
    """True for what says nothing of a tensor's values: its shape, type or device."""
    if getattr(func, "__name__", "") == "__get__":
        return not isinstance(result, Tensor)
    return isinstance(result, _FACTS)


def _is_own_call(
    norm: Any,
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> bool:
    """Whether F.batch_norm was called with all that `norm` holds."""
    same = running_var is norm.running_var and weight is norm.weight and bias is norm.bias
    return same and eps == norm.eps and not training


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif hasattr(values, "logits"):
        yield from _tensors(values.logits)

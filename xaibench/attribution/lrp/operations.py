"""The LRP rules of torch's functions: each is computed as usual, with a backward pass that propagates relevance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as adjoints

from xaibench.attribution.lrp.attention import multi_head_attention, scaled_dot_product_attention, softmax
from xaibench.attribution.lrp.functions import Absorb, Pass, is_gate, varies
from xaibench.attribution.lrp.propagation import Propagation

__all__ = ["handler_of", "name_of"]

_GATES = frozenset({"sigmoid", "hardsigmoid"})
_ACTIVATIONS = _GATES | {
    *("relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "prelu", "clamp", "clamp_min", "threshold"),
    *("silu", "gelu", "mish", "hardswish", "softplus", "softsign", "logsigmoid", "tanh"),
}
_SUMS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("add", "iadd", "radd"), torch.add),
    **dict.fromkeys(("sub", "isub", "subtract"), torch.sub),
    "rsub": torch.rsub,
}
_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    **dict.fromkeys(("mul", "imul", "rmul", "multiply"), torch.mul),
    **dict.fromkeys(("matmul", "bmm"), torch.matmul),
}
_QUOTIENTS = frozenset({"div", "truediv", "itruediv", "divide", "true_divide"})
_POOLS = frozenset(
    {
        *("mean", "sum", "interpolate", "neg"),
        *(f"{kind}avg_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)),
    }
)
_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
_MOVES = frozenset(
    {
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim"),
        *("expand", "repeat", "repeat_interleave", "getitem", "narrow", "flip", "roll", "rot90", "pixel_unshuffle"),
        *("clone", "contiguous", "to", "float", "double"),
    }
)


def name_of(func: Any) -> str:
    """The name of a function of torch without underscores: "iadd", "relu"."""
    return str(getattr(func, "__name__", "")).strip("_")


def handler_of(func: Any) -> Callable[..., Any] | None:
    """The implementation of `func` with an LRP rule, None if there is none.

    Its arguments are the `Propagation`, `func`, and those of `func`; it returns NotImplemented for arguments that it
    has no rule for.
    """
    return _BY_FUNCTION.get(func) or _BY_NAME.get(name_of(func))


def _activation(lrp: Propagation, func: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    if not varies(input) or any(map(varies, (*args, *kwargs.values()))):
        return NotImplemented
    name = func.__name__
    lrp.note_constants(name_of(func), *(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)))
    inplace = name == name.rstrip("_") + "_" or kwargs.get("inplace") or any(value is True for value in args)
    return Pass.apply(input, lambda x: func(x.clone() if inplace else x, *args, **kwargs), name_of(func) in _GATES)


def _sum(lrp: Propagation, func: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    if not (varies(a) or varies(b)):
        return NotImplemented
    lrp.note_constants(name_of(func), a, b)
    function = partial(_SUMS[name_of(func)], **kwargs)
    if varies(a) and varies(b):
        return lrp.affine(function, a, b)
    constant = function(*(v.new_zeros(()) if varies(v) else v for v in (a, b)))
    return lrp.affine(function, a, b, constant=constant, kind=lrp.kind_of(b if varies(a) else a))


def _product(lrp: Propagation, func: Any, a: Any, b: Any) -> Any:
    function = _PRODUCTS[name_of(func)]
    if varies(a) and varies(b) and function is torch.matmul and lrp.rules.attention == "attnlrp":
        return lrp.affine(lambda a, b: (a @ b.detach() + a.detach() @ b) / 2, a, b)  # uniform rule: half to each
    if varies(a) and varies(b):
        a, b = (value.detach() if is_gate(value) else value for value in (a, b))
    if varies(a) == varies(b):
        return NotImplemented
    if function is torch.matmul:
        return lrp.affine(function, a, b)
    return _scaled(lrp, function, a, b) if varies(a) else _scaled(lrp, function, b, a)


def _quotient(lrp: Propagation, func: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    return NotImplemented if kwargs or varies(b) or not varies(a) else _scaled(lrp, torch.div, a, b)


def _scaled(lrp: Propagation, function: Callable[..., Tensor], x: Tensor, constant: Any) -> Any:
    if isinstance(constant, Tensor) and torch.broadcast_shapes(x.shape, constant.shape) != x.shape:
        return lrp.affine(function, x, constant)
    return Pass.apply(x, lambda x: function(x, constant), is_gate(x))


def _pool(lrp: Propagation, func: Any, *args: Any, **kwargs: Any) -> Any:
    return lrp.affine(partial(func, **kwargs), *args)


def _join(lrp: Propagation, func: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
    if not any(map(varies, tensors)):
        return NotImplemented
    lrp.note_constants(name_of(func), *tensors)

    def join(*parts: Tensor) -> Tensor:
        result: Tensor = func(parts, *args, **kwargs)
        return result

    return lrp.moved(lrp.joined(join(*tensors), join, *tensors), join, *tensors)


def _move(lrp: Propagation, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    return lrp.moved(func(input, *args, **kwargs), lambda part: func(part, *args, **kwargs), input)


def _pad(
    lrp: Propagation, func: Any, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> Any:
    result = func(input, pad, mode, value)
    if mode == "constant" and lrp.books is not None:
        result = Absorb.apply(result, lrp.books, ("constant",), func(torch.zeros_like(input), pad, mode, 1.0))
    result = lrp.moved(result, lambda part: func(part, pad, mode, value), input)
    if mode == "constant" and not value:
        lrp.padded = result, input, pad
    return result


def _convolution(
    lrp: Propagation, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    settings = _settings(weight, *args, **kwargs)
    if settings is None or input.ndim != weight.ndim:
        return NotImplemented
    pad: Any = None
    if lrp.padded is not None and lrp.padded[0] is input:  # the padding is part of the convolution
        _, input, pad = lrp.padded
    to_input = getattr(adjoints, f"conv{weight.ndim - 2}d_input")

    def function(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = func(F.pad(x, pad) if pad else x, w, b, *settings)
        return result

    def adjoint(u: Tensor, x: Tensor, w: Tensor) -> Tensor:
        gradient: Tensor = to_input((F.pad(x, pad) if pad else x).shape, w, u, *settings)
        return F.pad(gradient, [-p for p in pad]) if pad else gradient

    return lrp.layer("convolution", function, adjoint, input, weight, bias)


def _settings(
    weight: Tensor, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Any, Any, Any, int] | None:
    """stride, padding, dilation, groups with the padding in numbers, None where it is not the same on both sides."""
    if isinstance(padding, str):
        steps = dilation if isinstance(dilation, (tuple, list)) else [dilation] * (weight.ndim - 2)
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(steps, weight.shape[2:])]
        if any(t % 2 for t in total):
            return None
        padding = [t // 2 for t in total]
    return stride, padding, dilation, groups


def _linear(lrp: Propagation, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return lrp.layer("linear", func, lambda u, x, w: u @ w, input, weight, bias)


def _batch_norm(
    lrp: Propagation,
    func: Any,
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or not varies(input):
        return NotImplemented
    if weight is None and bias is None and eps == 0:
        return input  # folded

    def normalised(x: Tensor) -> Tensor:
        result: Tensor = func(x, running_mean, running_var, weight, bias, False, momentum, eps)
        return result

    shift = normalised(input.new_zeros(1, *input.shape[1:2], *[1] * (input.ndim - 2)))
    return lrp.affine(normalised, input, constant=shift, kind="normalisation")


def _layer_norm(
    lrp: Propagation,
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))

    def normalised(x: Tensor) -> Tensor:
        scale = (x.detach().var(dims, correction=0, keepdim=True) + eps).rsqrt()
        y = (x - x.mean(dims, keepdim=True)) * scale
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    return lrp.affine(normalised, input, constant=bias, kind="normalisation")


def _normalize(
    lrp: Propagation, func: Any, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Any:
    """As layer normalisation: the length is held constant."""
    if not varies(input) or out is not None:
        return NotImplemented
    return _scaled(lrp, torch.div, input, input.detach().norm(p, dim, keepdim=True).clamp_min(eps))


_BY_FUNCTION: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.multi_head_attention_forward: multi_head_attention,
    F.normalize: _normalize,
    F.pad: _pad,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
}
_BY_NAME: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_ACTIVATIONS, _activation),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_QUOTIENTS, _quotient),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_JOINS, _join),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "linear": _linear,
    "softmax": softmax,
}

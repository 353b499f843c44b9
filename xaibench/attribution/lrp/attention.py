"""How relevance passes attention: with its weights held constant, or through them (AttnLRP, arXiv 2402.05602)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xaibench.attribution.lrp.functions import TaylorSoftmax, varies
from xaibench.attribution.lrp.propagation import Propagation

__all__ = ["ATTENDS", "Called", "multi_head_attention", "scaled_dot_product_attention", "softmax"]


ATTENDS = frozenset({"softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "matmul", "bmm"})
"""Names of functions, without which a network has no attention."""


class Called(TorchFunctionMode):
    """Within the block, `names` gathers the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(getattr(func, "__name__", "")).strip("_"))
        return func(*args, **(kwargs or {}))


def softmax(lrp: Propagation, func: Any, input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """With its constant weights attention needs no rule for the softmax; AttnLRP has one, `TaylorSoftmax`."""
    if lrp.rules.attention == "constant" or not varies(input) or dim is None or args:
        return NotImplemented
    if kwargs.get("dtype") not in (None, input.dtype):
        return NotImplemented
    return TaylorSoftmax.apply(input, dim, lrp.books, None)


def scaled_dot_product_attention(
    lrp: Propagation, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any
) -> Any:
    """Epsilon rule of A v, linear in v, where the weights A are held constant; else each step has its rule."""
    if lrp.rules.attention == "constant":
        return lrp.affine(lambda v: func(query.detach(), key.detach(), v, *args, **kw), value)
    return _explicit_attention(lrp, query, key, value, *args, **kw)


def _explicit_attention(
    lrp: Propagation,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p or varies(attn_mask):
        return NotImplemented
    seen = None  # of the keys, by each query; the sum of scores and -inf has no epsilon rule
    if is_causal:
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        seen, attn_mask = attn_mask, None
    elif attn_mask is not None and not bool(attn_mask.isfinite().all()):
        seen = attn_mask != -math.inf
        attn_mask = attn_mask.masked_fill(~seen, 0.0)
    with lrp:
        if enable_gqa:  # several heads of queries share one of keys and values
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores if attn_mask is None else scores + attn_mask
        return TaylorSoftmax.apply(scores, -1, lrp.books, seen) @ value


def multi_head_attention(
    lrp: Propagation,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    bias_k: Any,
    bias_v: Any,
    zeros: bool,
    dropout: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    **kwargs: Any,
) -> Any:
    """By layers, products and softmax, each with its rule. Weights are returned, if asked for, without gradients."""
    needed, averaged = kwargs.pop("need_weights", False), kwargs.pop("average_attn_weights", True)
    options = (bias_k, bias_v, zeros, *kwargs.values())
    if weight is None or query.ndim != 3 or not all(value is None or value is False for value in options):
        return NotImplemented
    biases: Any = (None, None, None) if bias is None else bias.chunk(3)
    with lrp:  # images first: (L, N, width) -> (N, L, width) -> (N, heads, L, width / heads)
        inputs = (tokens.transpose(0, 1) for tokens in (query, key, value))
        parts = [F.linear(x, w, b) for x, w, b in zip(inputs, weight.chunk(3), biases)]
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        output = F.linear(mixed, out_weight, out_bias).transpose(0, 1)
    if not needed:
        return output, None
    with torch.no_grad():
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3)
    return output, weights.mean(dim=1) if averaged else weights

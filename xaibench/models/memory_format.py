"""In which memory format a model's convolutions run: channels_last where all of them are right in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import isqrt, prod
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["MemoryFormat", "memory_format", "wrong_in_channels_last"]

_TOLERANCE = 0.05  # of the largest value: bfloat16 is off by less than a third of that, what is wrong by far more
_BLOCK = 16  # channels that oneDNN takes at once with AVX-512; with AVX2 it takes 8
_BATCH, _VALUES, _PRODUCTS = 4, 2**18, 3 * 10**7  # of a check: images, and at most about so many inputs and products
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_Held = TypeVar("_Held", Tensor, nn.Module)


@dataclass(frozen=True)
class MemoryFormat:
    """A memory format, and in one line why it was chosen."""

    name: Literal["channels_last", "contiguous"]
    reason: str

    def __call__(self, held: _Held) -> _Held:
        """A tensor (N, C, H, W) in this format, or a module whose weights are put into it, in place."""
        form = _FORMATS[self.name]
        if isinstance(held, Tensor):
            return held.contiguous(memory_format=form)
        return held.to(memory_format=form)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class _Convolution:
    """All that the choice of a kernel depends on, but the size of the images."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    device: torch.device

    @property
    def overruns(self) -> bool:
        """Whether oneDNN writes beyond its buffer in the gradient of the weights, in channels_last.

        It does for strided 1x1 convolutions of fewer channels than it takes at once: the gradient is wrong or the
        process dies, so they must not be tried. Source: https://github.com/uxlfoundation/oneDNN/issues/6035.
        """
        narrow = self.inputs // self.groups < _BLOCK
        return self.device.type == "cpu" and narrow and prod(self.kernel) == 1 and max(self.stride) > 1


def memory_format(model: nn.Module) -> MemoryFormat:
    """The memory format for running and training `model` on the device where it lies: channels_last if that is right.

    It is right if `wrong_in_channels_last` finds nothing for any 2-D convolution of the model; else it is contiguous.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and (fault := wrong_in_channels_last(layer)):
            return MemoryFormat("contiguous", f"in channels_last the convolution '{name}' {fault}")
    return MemoryFormat("channels_last", "the gradients of all convolutions are right in it")


def wrong_in_channels_last(layer: nn.Conv2d) -> str:
    """What is wrong with this convolution in channels_last on its device, as a predicate; "" if nothing is.

    Wrong are the strided 1x1 convolutions that oneDNN is known to break, and those whose output or gradient of input,
    weight or bias is off by more than 5% of its largest value. That is measured against float64, on random data in
    float32, and in bfloat16 on a CPU that multiplies it natively. What was found is remembered for the process.
    """
    padding: Any = layer.padding
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size))
    elif padding == "valid" or layer.padding_mode != "zeros":
        padding = (0, 0)
    device = next(layer.parameters()).device
    channels = layer.in_channels, layer.out_channels
    sizes = layer.kernel_size, layer.stride, padding, layer.dilation
    return _fault(
        _Convolution(*channels, *sizes, layer.groups, layer.bias is not None, device), torch.get_num_threads()
    )


@cache
def _fault(layer: _Convolution, threads: int) -> str:
    if layer.overruns:
        return f"has wrong gradients in oneDNN: 1x1, strided, fewer than {_BLOCK} input channels"
    dtypes = [] if layer.device.type == "meta" else [torch.float32]
    if layer.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    for dtype in dtypes:
        for what, error in _errors(layer, dtype).items():
            if not error <= _TOLERANCE:
                return f"has a wrong {what} in {dtype}: off by {error:.2g} of the largest value"
    return ""


@torch.no_grad()
def _errors(layer: _Convolution, dtype: torch.dtype) -> dict[str, float]:
    """Largest errors in channels_last, each over the largest value in float64: name -> error."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32).to(dtype)

    weight = draw(layer.outputs, layer.inputs // layer.groups, *layer.kernel)
    affordable = min(_VALUES // layer.inputs, _PRODUCTS // weight.numel()) // _BATCH
    side = min(32, max(8, isqrt(affordable)))
    extents = [max(side, d * (k - 1) + 1 + s) for d, k, s in zip(layer.dilation, layer.kernel, layer.stride)]
    x = draw(_BATCH, layer.inputs, *extents)
    bias = draw(layer.outputs) if layer.bias else None
    options = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    gradient = draw(*torch.ops.aten.convolution(x.to("meta"), weight.to("meta"), None, *options).shape)

    def run(move: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Output and gradients, with all tensors moved to where and how they are to be computed."""
        data, kernel, back = move(x), move(weight), move(gradient)
        shift = None if bias is None else move(bias)
        sizes, wanted = (None if bias is None else [layer.outputs]), [True, True, bias is not None]
        output = torch.ops.aten.convolution(data, kernel, shift, *options)
        gradients = torch.ops.aten.convolution_backward(back, data, kernel, sizes, *options, wanted)
        names = ("output", "gradient of the input", "gradient of the weight", "gradient of the bias")
        return {name: value for name, value in zip(names, (output, *gradients)) if value is not None}

    exact, found = run(Tensor.double), run(lambda value: _last(value.to(layer.device)))
    return {
        name: float((found[name].cpu().double() - wanted).abs().max() / wanted.abs().max())
        for name, wanted in exact.items()
    }


def _last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value

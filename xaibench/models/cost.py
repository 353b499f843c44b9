"""What a model costs: parameters, multiply-accumulates, and the time of one image."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xaibench.errors import ConfigError, ModelError
from xaibench.models.copies import changing, private_copy
from xaibench.models.trial import explained, trial_images
from xaibench.validation import checked

__all__ = ["ModelCost", "model_cost"]

_WARM_UP = 3  # passes before the measured ones: buffers and kernels are chosen in them


@dataclass(frozen=True)
class ModelCost:
    """What a model costs for one image.

    parameters  numbers that were or could be trained; shared ones count once
    macs        multiply-accumulates of convolutions, linear layers and matrix products, those of attention among them;
                biases, normalisations, nonlinearities, pooling and recurrent layers count for nothing
    latency_ms  median time of a forward pass of one image, a measurement: it differs from machine to machine
    device      the processor that it was measured on, with its number of threads
    """

    parameters: int
    macs: int
    latency_ms: float
    device: str


@checked(error=ModelError)
def model_cost(model: nn.Module, shape: tuple[int, int, int], *, repeats: int = 20) -> ModelCost:
    """What `model` costs for one image of `shape` (C, H, W), in evaluation mode, on the CPU.

    A convolution of kernel (h, w) from C to C' channels in g groups costs C' (C / g) h w for each position of its
    output, a linear layer from C to C' costs C C' for each row, a product (M, K) (K, N) costs M K N.

    repeats  timed passes, after some that are not timed

    All is done with a copy of the model, in float32. Raises ModelError where the model does not take such an image,
    ConfigError for sizes or repeats below 1.
    """
    if min(*shape, repeats) < 1:
        raise ConfigError(f"sizes and repeats must be at least 1, got shape {shape}, repeats {repeats}")
    channels, size = shape[0], shape[1:]
    work = private_copy(model).cpu().float().eval()
    image = trial_images(work, channels, size)[:1]
    seconds, threads = [], torch.get_num_threads()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), explained(size, channels):
        with _unfused_attention(), FlopCounterMode(display=False, custom_mapping=_FURTHER) as counter:
            work(image)
        for _ in range(_WARM_UP + repeats):
            start = time.perf_counter()
            work(image)
            seconds.append(time.perf_counter() - start)
    return ModelCost(
        parameters=sum(value.numel() for value in model.parameters()),
        macs=counter.get_total_flops() // 2,
        latency_ms=1000 * statistics.median(seconds[_WARM_UP:]),
        device=f"{_processor()}, {threads} thread{'s' * (threads > 1)}",
    )


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Within the block torch's attention layers call the products that they consist of, which can be counted."""
    with changing:
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _product(matrix: torch.Size, *_: object, **__: object) -> int:
    return 2 * matrix.numel()


def _sum_and_product(_: object, matrix: torch.Size, *__: object, **___: object) -> int:
    return 2 * matrix.numel()


_FURTHER = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mv: _product,
    torch.ops.aten.dot: _product,
    torch.ops.aten.addmv: _sum_and_product,
}
"""Operations that torch's counter leaves out -> two for each product, from the shapes of their arguments."""


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

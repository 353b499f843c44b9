"""Float32 that is float32: no TF32, no bfloat16 behind it, no autocast, whatever the process has switched on."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]

# Where torch (from 2.9 on) keeps what float32 products may be rounded to, beside the older flags.
_PARTS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")

_lock = threading.Lock()
_blocks = 0
_restore: list[Callable[[], object]] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the block float32 is computed in float32, without autocast, and new tensors are float32 on the CPU.

    TF32 keeps 10 bits of the mantissa: too few for relevance to be conserved or for equal functions to be told. The
    settings are those of the process: threads outside such a block share them while one is open. They are restored when
    the last block ends; blocks may be nested and entered by several threads.
    """
    global _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _switch_off()
    try:
        with ExitStack() as stack:
            for device in ("cpu", torch.accelerator.current_accelerator() or "cpu"):
                stack.enter_context(torch.autocast(torch.device(device).type, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                while _restore:
                    _restore.pop()()


def _switch_off() -> None:
    dtype = torch.get_default_dtype()
    _restore.append(lambda: torch.set_default_dtype(dtype))
    torch.set_default_dtype(torch.float32)
    backends: Any = torch.backends
    parts = [part for name in _PARTS if hasattr(part := operator.attrgetter(name)(backends), "fp32_precision")]
    for part in parts:
        _restore.append(lambda part=part, value=part.fp32_precision: setattr(part, "fp32_precision", value))  # type: ignore[misc]
    # The older flags must say the same, or torch refuses to read them; where they do not, they cannot be read.
    try:
        matmul, convolution = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        pass
    else:
        _restore.append(lambda: torch.set_float32_matmul_precision(matmul))
        _restore.append(lambda: setattr(backends.cudnn, "allow_tf32", convolution))
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = False
    for part in parts:
        if part.fp32_precision not in ("ieee", "none"):
            part.fp32_precision = "ieee"

"""Keep the memory of freed tensors for the next ones."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_memory"]

# Parameters of glibc's mallopt, with the values that its own adaptation reaches in a process that frees large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEPING = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}

_lock = threading.Lock()
_blocks = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within the block the process keeps what it frees; on the way out, what is free goes back to the system.

    Every pass of a network frees the activations of the one before. glibc returns such memory at once, and the next
    pass asks for it again, page by page: 1800 page faults, or 4% of the time, in a training step of a narrow student.

    For programs of one's own, as the command line is: glibc adapts its thresholds to a process until the first change
    by `mallopt`, and cannot be told to begin again. After the block they stay where that adaptation ends at most.

    Blocks may be nested, and entered by several threads. Nothing happens where the C library is not glibc, and nothing
    to the memory of a GPU.
    """
    global _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _configure(_KEEPING)
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _configure(_USUAL)
                _give_back()


def _configure(values: dict[int, int]) -> None:
    glibc = _glibc()
    if glibc is not None:
        for parameter, value in values.items():
            glibc.mallopt(parameter, value)


def _give_back() -> None:
    glibc = _glibc()
    if glibc is not None:
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, None if it is another one."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None

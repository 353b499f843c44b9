"""Freed memory stays within a block and goes back after it."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from xaibench import allocator
from xaibench.allocator import kept_memory

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc: nothing is done there")


def faults(warm_up: int = 0) -> int:
    """Page faults while a tensor of 48 MB is made and freed five times, after `warm_up` times."""
    for _ in range(warm_up):
        torch.ones(12 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_memory_is_kept_within_the_block_only() -> None:
    with kept_memory():
        assert faults(warm_up=30) < 100
    assert faults() > 100  # with huge pages, 24 a tensor


@glibc
def test_an_inner_block_ends_nothing() -> None:
    with kept_memory():
        with kept_memory():
            pass
        assert faults(warm_up=30) < 100
    assert faults() > 100


@glibc
def test_an_exception_ends_the_block() -> None:
    with pytest.raises(ZeroDivisionError), kept_memory():
        1 / 0  # noqa: B018
    assert faults() > 100


@glibc
def test_what_is_free_goes_back_to_the_system() -> None:
    script = """
        import torch
        from xaibench.allocator import kept_memory
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        before = resident()
        with kept_memory():
            tensors = [torch.ones(1 << 20) for _ in range(100)]
            del tensors
            within = resident()
        print(within - before, resident() - before)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    within, after = map(int, run.stdout.split())
    assert within > 300 << 20
    assert after < 50 << 20


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with kept_memory():
        assert torch.ones(3).sum() == 3

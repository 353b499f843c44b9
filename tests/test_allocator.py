"""Freed memory stays within a block and goes back after it. In new processes: an old heap has holes of any size."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

from xaibench import allocator
from xaibench.allocator import kept_memory

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc: nothing is done there")

COMMON = """
    import contextlib, resource, torch
    from xaibench.allocator import kept_memory

    def faults(warm_up=0):
        '''Page faults while a tensor of 48 MB is made and freed five times, after `warm_up` times.'''
        for _ in range(warm_up):
            torch.ones(12 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(12 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096
"""


def printed(script: str) -> list[int]:
    """The numbers that a script prints, run in a process of its own."""
    code = textwrap.dedent(COMMON) + textwrap.dedent(script)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(word) for word in run.stdout.split()]


BLOCKS = {
    "block": """
        with kept_memory():
            print(faults(30))
        """,
    "inner block": """
        with kept_memory():
            with kept_memory():
                pass
            print(faults(30))
        """,
    "exception": """
        with contextlib.suppress(KeyError), kept_memory():
            print(faults(30))
            raise KeyError
        """,
}


@glibc
@pytest.mark.parametrize("name", BLOCKS)
def test_memory_is_kept_within_the_block_only(name: str) -> None:
    within, after = printed(textwrap.dedent(BLOCKS[name]) + "print(faults())")
    assert within < 100
    assert after > 100  # 61440 pages, 120 where they are huge


@glibc
def test_what_is_free_goes_back_to_the_system() -> None:
    within, after = printed(
        """
        before = resident()
        with kept_memory():
            tensors = [torch.ones(1 << 20) for _ in range(100)]
            del tensors
            print(resident() - before)
        print(resident() - before)
        """
    )
    assert within > 300 << 20
    assert after < 50 << 20


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with kept_memory():
        assert torch.ones(3).sum() == 3

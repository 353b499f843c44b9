"""Float32 is float32 within a block, and everything is as before behind it."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from xaibench.precision import full_precision

PARTS = [
    part
    for name in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
    if hasattr(part := operator.attrgetter(name)(torch.backends), "fp32_precision")
]


def settings() -> list[object]:
    """All that the process may have been told about float32, None where torch refuses to say."""
    found: list[object] = [part.fp32_precision for part in PARTS]
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
        torch.get_default_dtype,
        lambda: torch.is_autocast_enabled("cpu"),
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found


def tf32() -> bool:
    older = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return older or any(part.fp32_precision in ("tf32", "bf16") for part in PARTS)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    parts, convolution = [part.fp32_precision for part in PARTS], torch.backends.cudnn.allow_tf32
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = convolution
    for part, value in zip(PARTS, parts):
        part.fp32_precision = value


CHOICES: dict[str, Callable[[], object]] = {
    "as torch starts": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "older flags": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "mixed": lambda: PARTS and setattr(PARTS[0], "fp32_precision", "tf32"),
    "default type": lambda: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_tf32_is_off_inside_and_as_before_outside(choice: str) -> None:
    CHOICES[choice]()
    before = settings()
    with full_precision(), full_precision():
        assert not (choice != "mixed" and tf32())
        assert all(part.fp32_precision in ("ieee", "none") for part in PARTS)
        assert torch.zeros(1).dtype == torch.float32
    assert settings() == before
    with pytest.raises(KeyboardInterrupt), full_precision():
        raise KeyboardInterrupt
    assert settings() == before


def test_autocast_and_default_devices_are_off_inside() -> None:
    a = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision():
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
    with torch.device("meta"):
        with full_precision():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"


def test_blocks_in_threads_end_together() -> None:
    torch.set_float32_matmul_precision("high")
    before, inside, leave = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with full_precision():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        assert inside.wait(10)
    assert not tf32()
    leave.set()
    thread.join()
    assert settings() == before

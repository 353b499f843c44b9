"""Which memory format a model's convolutions are right in, and that students are trained right on any processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from xaibench.models import memory_format as module
from xaibench.models.architectures import build_model
from xaibench.models.memory_format import MemoryFormat, memory_format, wrong_in_channels_last

SCRIPT = Path(__file__).parent / "every_gradient.py"


@pytest.mark.parametrize(
    ("isa", "widths", "threads"),
    [
        ("AVX2", (1, 8), (2, 1)),
        pytest.param("AVX2", (9, 32), (2, 1), marks=pytest.mark.slow),
        pytest.param("DEFAULT", (1, 32), (2,), marks=pytest.mark.slow),
    ],
)
def test_every_gradient_of_narrow_students_is_right(
    isa: str, widths: tuple[int, int], threads: tuple[int, ...]
) -> None:
    """In a process of its own: the kernels are chosen when oneDNN is first used, and the fault kills the process."""
    command = [sys.executable, str(SCRIPT), *map(str, widths + threads)]
    settings = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "OMP_WAIT_POLICY": "PASSIVE"}  # others use the cores, too
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=600)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-800:]}"
    assert [float(loss) > 0 for loss in done.stdout.split()] == [True] * len(threads)


@pytest.mark.parametrize("width", [1, 4, 7, 8, 15])
def test_narrow_strided_layers_are_never_run_in_channels_last(width: int) -> None:
    chosen = memory_format(build_model(f"resnet18-cifar:{width}-{width}-{width}-{width}@{width}", 3))
    assert chosen.name == "contiguous"
    assert "'layer2.0.downsample.0'" in str(chosen)


@pytest.mark.parametrize("name", ["resnet18-cifar:56-56-40-40", "resnet18-cifar:16-16-16-16@16"])
def test_other_models_are_run_in_channels_last(name: str) -> None:
    assert memory_format(build_model(name, 3)).name == "channels_last"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 1, stride=1),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Conv2d(1, 5, 5, padding="same", dilation=2),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.Conv2d(3, 4, (1, 7), stride=(1, 2), padding="valid"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 8, 1, stride=2),
        nn.Conv2d(3, 8, 40, stride=16),
    ],
    ids=str,
)
def test_convolutions_that_are_right(layer: nn.Conv2d) -> None:
    assert wrong_in_channels_last(layer) == ""


@pytest.mark.parametrize("layer", [nn.Conv2d(15, 8, 1, stride=2), nn.Conv2d(64, 64, 1, stride=(1, 2), groups=8)])
def test_the_channels_of_a_group_count(layer: nn.Conv2d) -> None:
    assert "fewer than 16 input channels" in wrong_in_channels_last(layer)


class _Broken(torch.utils._python_dispatch.TorchDispatchMode):
    """Weight gradients are off by half, but for those in float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.convolution_backward.default or args[1].dtype == torch.float64:
            return result
        return result[0], 0.5 * result[1], result[2]


def test_a_wrong_gradient_is_found_and_said() -> None:
    module._fault.cache_clear()
    try:
        with _Broken():
            chosen = memory_format(nn.Sequential(nn.Conv2d(3, 6, 3)))
    finally:
        module._fault.cache_clear()
    assert chosen.name == "contiguous"
    assert "'0' has a wrong gradient of the weight in torch.float32: off by 0.5" in chosen.reason


def test_the_choice_leaves_model_random_state_and_gradients_alone() -> None:
    model = build_model("resnet18-cifar:8-8-16-16@8", 3)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        memory_format(model)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_float32_is_checked_in_float32_whatever_the_context() -> None:
    layer = module._Convolution(3, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, True, torch.device("cpu"))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert max(module._errors(layer, torch.float32).values()) < 1e-5


def test_a_format_is_put_on_tensors_and_modules() -> None:
    last, first = MemoryFormat("channels_last", "fast"), MemoryFormat("contiguous", "safe")
    x, layer = torch.randn(2, 3, 4, 5), nn.Conv2d(3, 4, 3)
    assert last(x).is_contiguous(memory_format=torch.channels_last)
    assert last(layer).weight.is_contiguous(memory_format=torch.channels_last)
    assert first(last(x)).is_contiguous()
    assert first(layer).weight.is_contiguous()
    assert torch.equal(last(x), x)

"""Run by test_memory_format.py: gradients of every convolution of real students, and one that is trained.

    python tests/models/every_gradient.py FIRST_WIDTH LAST_WIDTH THREADS ...

Every layer's gradients of input and weight, as backward gives them in the format that is chosen for the student, are
compared with those in float64 for the same layer input and output gradient. With each of
these numbers of threads in turn.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import Subtask
from xaibench.data.tasks import Task
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import SubDistill
from xaibench.distillation.recipe import Recipe
from xaibench.models import memory_format as module
from xaibench.models.architectures import build_model
from xaibench.models.pair import ModelPair

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.01}


def largest_errors(model: nn.Module, x: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Name of a convolution -> largest error of its gradients (see `error`), in one training step."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    def enter(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        alias = args[0].view_as(args[0])  # its gradient is that of this layer alone
        alias.retain_grad()
        return (alias,)

    def leave(name: str, args: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        seen[name] = args[0], output

    for name, layer in layers.items():
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(lambda _, args, output, name=name: leave(name, args, output))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        model(x.requires_grad_()).float().square().sum().backward()
    return {name: error(layer, *seen[name], dtype) for name, layer in layers.items()}


def error(layer: Any, x: Tensor, output: Tensor, dtype: torch.dtype) -> float:
    """Over the sums of the absolute terms: before batch normalisation gradients may cancel out to nothing."""
    options = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    given = [v.detach().to(dtype).double().contiguous() for v in (output.grad, x, layer.weight)]  # type: ignore[union-attr]
    right = torch.ops.aten.convolution_backward(*given, None, *options, [True, True, False])
    scale = torch.ops.aten.convolution_backward(*(v.abs() for v in given), None, *options, [True, True, False])
    found = (x.grad, layer.weight.grad)
    return max(float((f.double() - r).abs().max() / s.max()) for f, r, s in zip(found, right, scale))


def train(width: int) -> float:
    """The loss of a student of these widths after an epoch of SubDistill in float32."""
    classes = ("a", "b")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(32) % 2, classes, tuple(map(str, range(32))), "noise")
    student = build_model(f"resnet18-cifar:{width}-{width}-{width}-{width}@{width}", 2)
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (32, 32))
    teacher = build_model("resnet18-cifar:16-16-16-16@16", 2)
    pair = ModelPair.create(teacher, student, classes=classes, preprocessing=preprocessing, teacher_classes=classes)
    task = Task(images, images, images, Subtask("noise", classes), "noise")
    run = distill(pair, task, SubDistill(), Recipe(epochs=1, batch_size=16, precision="32-true"))
    return float(run.history["loss"].iloc[-1])


def main(first: int, last: int, *threads: int) -> None:
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for number in threads:
        torch.set_num_threads(number)
        module._fault.cache_clear()
        generator = torch.Generator().manual_seed(0)
        for width in range(first, last + 1):
            for dtype in (torch.float32, torch.bfloat16)[: 1 + native]:
                check(width, dtype, generator)
        print(train(4))


def check(width: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    model = build_model(f"resnet18-cifar:{width}-{width}-{width}-{width}@{width}", 2)
    form = module.memory_format(model)
    x = form(torch.randn(8, 3, 32, 32, generator=generator))
    for name, off in largest_errors(form(model), x, dtype).items():
        if not off <= TOLERANCE[dtype]:
            sys.exit(f"width {width}, layer {name}, {dtype}, {form}: off by {off:.2g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Seconds and arithmetic of one training step of each method, relative to KD, with the teacher's outputs cached.

    python benchmarks/method_steps.py
    python benchmarks/method_steps.py --teacher cifar100_resnet18.pth --classes cifar100 \\
        --student resnet18-cifar:56-56-40-40

Runs on the CPU, on random images. A step is: look up the teacher, student forward, loss, backward, optimiser. Methods
take turns, round by round, so that a busy moment of the machine hits all alike; the median over the rounds is in the
table. "arithmetic" counts multiplications and additions of matrix products and convolutions, forward and backward.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from xaibench.data.datasets import CLASS_LISTS, embedded, preprocessing_for
from xaibench.data.images import ImageSet
from xaibench.distillation.criterion import Setting
from xaibench.distillation.distill import make_fabric, measure_moments
from xaibench.distillation.methods import METHODS, parse_method
from xaibench.distillation.methods.wrapped import Wrapped
from xaibench.distillation.recipe import Recipe
from xaibench.distillation.teacher_cache import LiveTeacher, teacher_source
from xaibench.distillation.trainer import StudentInput, _Step
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.memory_format import memory_format
from xaibench.models.pair import ModelPair

CLASSES = 5


def make_step(method: str, pair: ModelPair, images: ImageSet, recipe: Recipe) -> Callable[[torch.Tensor], None]:
    """step(indices): one training step of `method` on these images."""
    fabric = make_fabric(recipe, "cpu", launch=False)
    sample = pair.preprocessing(images.images[:2])
    moments = measure_moments(pair, images.take(range(64)), fabric)
    criterion = parse_method(method).build(Setting(pair, sample, lambda: moments, images.labels, recipe.batch_size))
    inputs = StudentInput(images, pair.preprocessing, recipe, 0, fabric.device, memory_format(pair.student))
    teacher = None
    if criterion.needs_teacher:
        live = LiveTeacher(pair.teacher, criterion, fabric.autocast, memory_format(pair.teacher))
        teacher = teacher_source(live, inputs, len(images), 1, budget=int(4e9))
    step = _Step(inputs.format(pair.student), criterion, teacher)
    module, optimizer = fabric.setup(step, torch.optim.AdamW(step.parameters(), fused=True))
    module.train()

    def run(indices: torch.Tensor) -> None:
        loss, _, _ = module(inputs(indices, 0), indices, images.labels[indices], 30, 0)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=[n for n, m in METHODS.items() if not issubclass(m, Wrapped)])
    parser.add_argument("--teacher", default=str(embedded("fashion-mnist/teacher.safetensors")))
    parser.add_argument("--classes", help="class list of a bare state dict, e.g. cifar100")
    parser.add_argument("--student", default="resnet18-cifar:16-16-16-16@16")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    bare = (None, None, None)
    if options.classes:
        bare = ("resnet18-cifar", CLASS_LISTS[options.classes], preprocessing_for(options.classes))
    teacher, card = load_checkpoint(options.teacher, *bare)
    c, side = card.preprocessing.channels, (card.preprocessing.size or (32, 32))[0]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (options.images, c, side, side), generator=generator, dtype=torch.uint8)
    classes = card.classes[:CLASSES]
    images = ImageSet(
        pixels, torch.arange(options.images) % CLASSES, classes, tuple(map(str, range(options.images))), "noise"
    )
    recipe = Recipe(views=1)
    steps, flops = {}, {}
    for method in dict.fromkeys(["kd", *options.methods]):
        pair = ModelPair.create(
            teacher,
            build_model(options.student, CLASSES, c),
            classes=classes,
            preprocessing=card.preprocessing,
            teacher_classes=card.classes,
        )
        steps[method] = make_step(method, pair, images, recipe)
        with FlopCounterMode(display=False) as counter:
            steps[method](torch.arange(recipe.batch_size))
        flops[method] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    for round_ in range(options.rounds):
        for method, step in steps.items():
            indices = torch.randperm(options.images, generator=generator)[: recipe.batch_size]
            started = time.perf_counter()
            step(indices)
            if round_ >= 2:
                seconds[method].append(time.perf_counter() - started)
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    rows = ["| method | step | relative to KD | arithmetic relative to KD |", "|---|---|---|---|"]
    for method in steps:
        time_ratio, work_ratio = medians[method] / medians["kd"], flops[method] / flops["kd"]
        rows.append(f"| {method} | {1000 * medians[method]:.0f} ms | {time_ratio:.2f} | {work_ratio:.2f} |")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

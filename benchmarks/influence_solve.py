"""Seconds and peak memory of influence weights: the validation gradient, the Gauss-Newton solve, the scores.

    python benchmarks/influence_solve.py

Images and teacher logits are random, the student is one of 0.4 M parameters, and the solve runs through all its steps
(no early end), as it would on a hard problem. The numbers are to stay within 5 minutes on 2 cores and within 2 GiB.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.func import functional_call

from xaibench.distillation.influence_functions import (
    Batch,
    Batches,
    Params,
    Problem,
    influence_scores,
    influence_weights,
    mean_gradient,
    solve,
)
from xaibench.distillation.losses.kd import cross_entropy, kd
from xaibench.models.architectures import build_model

CLASSES = 5
SECONDS, MEGABYTES = 300, 2 * 1024**3 / 1e6


def noise(n: int, size: int, batch_size: int, seed: int) -> Batches:
    """n random images (3, 32, 32) with labels and teacher logits, made once, in batches."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    teacher = 3 * torch.randn(n, CLASSES, generator=generator)

    def batches() -> Iterator[Batch]:
        for part in torch.arange(n).split(batch_size):
            yield x[part], (labels[part], teacher[part])

    return batches


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18-cifar:56-56-40-40")
    parser.add_argument("--training", type=int, default=2000, help="training images")
    parser.add_argument("--validation", type=int, default=400, help="validation images")
    parser.add_argument("--samples", type=int, default=512, help="training images that make up the Gauss-Newton matrix")
    parser.add_argument("--iterations", type=int, default=20, help="steps of conjugate gradients")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="of the network")
    args = parser.parse_args()

    model = build_model(args.model, CLASSES).to(memory_format=torch.channels_last)
    training = noise(args.training, args.size, args.batch_size, seed=0)
    validation = noise(args.validation, args.size, args.batch_size, seed=1)
    curvature = noise(args.samples, args.size, args.batch_size, seed=0)
    with torch.no_grad():
        for x, _ in validation():  # fills the running statistics of batch norm
            model(x)
    model.eval()
    params = {name: p.detach() for name, p in model.named_parameters()}
    dtype = {"32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    buffers = {name: b.to(dtype) for name, b in model.named_buffers()}

    def outputs(params: Params, x: Tensor) -> Tensor:
        # No autocast: with it, batch norm gives forward-mode derivatives in another precision than its values.
        state = {name: p.to(dtype) for name, p in params.items()} | buffers
        return functional_call(model, state, (x.to(dtype),)).float()

    on_labels = Problem(outputs, lambda z, extra: cross_entropy(z, extra[0]))
    on_teacher = Problem(outputs, lambda z, extra: kd(z, extra[1]))

    size = sum(p.numel() for p in params.values())
    print(
        f"{args.model} ({size / 1e6:.2f} M parameters), {args.precision}, {torch.get_num_threads()} threads; images: "
        f"training {args.training}, curvature {args.samples}, validation {args.validation}"
    )
    print(f"{'':24s}{'seconds':>10s}{'peak [MB]':>12s}")

    def row(name: str, seconds: float) -> None:
        print(f"{name:24s}{seconds:10.1f}{peak():12.0f}", flush=True)

    row("before", 0.0)
    start = time.perf_counter()
    gradient = mean_gradient(on_labels, params, validation)
    row("validation gradient", time.perf_counter() - start)
    solving = time.perf_counter()
    solution = solve(on_teacher, params, curvature, gradient, iterations=args.iterations, tolerance=0.0)
    row(f"solve, {solution.iterations} steps", time.perf_counter() - solving)
    scoring = time.perf_counter()
    weights = influence_weights(influence_scores(on_teacher, params, training, solution.vector))
    row("scores", time.perf_counter() - scoring)
    total = time.perf_counter() - start
    row("total", total)
    print(f"relative residual {solution.residual:.2g}, weights {weights.min():.2f} to {weights.max():.2f}")
    held = total <= SECONDS and peak() <= MEGABYTES
    print(f"within {SECONDS} s and {MEGABYTES:.0f} MB: {'yes' if held else 'NO'}")


if __name__ == "__main__":
    main()

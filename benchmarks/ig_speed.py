"""Seconds of integrated gradients: ours, captum's defaults, and the bare cost of as many forward and backward passes.

    python benchmarks/ig_speed.py
    python benchmarks/ig_speed.py --teacher cifar100_resnet18.pth --classes cifar100

Runs on the CPU with two threads, on random images. The three take turns, round by round, so that a busy moment of the
machine hits all alike; the table has the medians. captum's defaults put all steps of all images into one batch. Bare is
model(x) and the gradient of one logit difference with respect to x, in batches of `--points`, for as many inputs as the
quadrature has points. Ours is to be at least 1.3 times as fast as captum's defaults, within 1.25
times the bare cost, and to give the same maps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import captum.attr
import torch
from torch import Tensor, nn

from xaibench.attribution.differentiation import explained_by, input_gradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.targets import Target, make_target
from xaibench.data.datasets import CLASS_LISTS, preprocessing_for
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import load_checkpoint

FASTER, NEAR, SAME = 1.3, 1.25, 1e-5


def bare(model: nn.Module, x: Tensor, target: Target, points: int) -> None:
    """One forward pass and input gradient for each of x (N, C, H, W), `points` at a time."""
    for rows in torch.arange(len(x)).split(points):
        input_gradient(model, x[rows], target.take(rows))


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="checkpoint; default: a ResNet-18 for 32x32 images with random weights")
    parser.add_argument("--classes", help="class list of a bare state dict, e.g. cifar100")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--points", type=int, default=64, help="inputs in one pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (32, 32))
    if options.teacher:
        form = ("resnet18-cifar", CLASS_LISTS[options.classes], preprocessing_for(options.classes))
        model, card = load_checkpoint(options.teacher, *(form if options.classes else (None, None, None)))
        preprocessing = card.preprocessing
    else:
        model = build_model("resnet18-cifar", 100)
    model = model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    shape = (options.images, preprocessing.channels, *(preprocessing.size or (32, 32)))
    x = preprocessing(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    with torch.no_grad():
        target = make_target(model(x))
    many, often = x.repeat(options.steps, 1, 1, 1), target.take(torch.arange(len(x)).repeat(options.steps))
    explainer = IntegratedGradients(options.steps, options.steps)
    reference = captum.attr.IntegratedGradients(explained_by(model))
    baseline = preprocessing.bounds()[0].expand(1, *shape[1:])
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: explainer.attribute(model, x, target, preprocessing, options.points).relevance,
        "captum": lambda: reference.attribute(
            x,
            baselines=baseline,
            additional_forward_args=(target.label, target.contrast),
            n_steps=options.steps,
        ).detach(),
        "bare": lambda: bare(model, many, often, options.points),
    }
    maps = {name: run() for name, run in runs.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))

    print(
        f"{len(x)} images of {shape[2]}x{shape[3]}, {options.steps} steps, {options.points} inputs in a pass, "
        f"{options.threads} threads, median of {options.rounds} rounds"
    )
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{name:8s}{value:8.2f} s{len(x) / value:8.2f} images/s{value / middle['ours']:8.2f} x ours")
    difference = float((maps["ours"] - maps["captum"]).abs().max() / maps["captum"].abs().max())
    print(f"maps differ by at most {difference:.1e} of the largest value")
    gain, cost = middle["captum"] / middle["ours"], middle["ours"] / middle["bare"]
    held = gain >= FASTER and cost <= NEAR and difference <= SAME
    print(
        f"{gain:.2f} times as fast as captum's defaults (at least {FASTER}), {cost:.2f} times the bare cost "
        f"(at most {NEAR}): {'held' if held else 'NOT held'}"
    )


if __name__ == "__main__":
    main()

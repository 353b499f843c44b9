"""Integrated gradients: how far off are the maps, at how many gradients and seconds, ours beside fixed rules?

    make demo
    python benchmarks/ig_accuracy.py --run runs/demo
    python benchmarks/ig_accuracy.py --teacher cifar100_resnet18.pth --data imagefolder:CIFAR100 --images 32
    python benchmarks/ig_accuracy.py --vit runs/vit/vit1.pt --images 32

Models: a run's teacher and its first student distilled by --method, on the run's explained images; a CIFAR-100
teacher on images of the superclass people; a smooth network: a ViT of `vit_lrp.py` on Fashion-MNIST. The true map is
the trapezoid rule with 1024 intervals. Rules:

adaptive      ours, until its error estimate is at most 2%
restarts      50, 100, 200, 400 points of captum's Gauss-Legendre rule, until the residual is at most 2% of
              |f(x) - f(b)|
legendre N    captum's Gauss-Legendre rule, which estimates no error
trapezoid N   plain, N intervals

Errors are relative L2 distances of heatmaps (channels summed). All rules take turns in one process.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from vit_lrp import network

from xaibench.attribution.batch_size import Room
from xaibench.attribution.completeness import explained_difference
from xaibench.attribution.differentiation import value_and_gradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.targets import Target, make_target
from xaibench.data.datasets import preprocessing_for
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.tasks import load_task
from xaibench.models.copies import private_copy
from xaibench.models.predict import predict_logits
from xaibench.run.config import DataConfig, RunConfig, TeacherConfig
from xaibench.run.folder import open_run
from xaibench.run.inputs import Assets, load_assets

REFERENCE = 1024
LEGENDRE = (33, 50, 64, 80, 100, 200)
TRAPEZOID = (32, 64, 128)
DOUBLED = (50, 100, 200, 400)
FEWER, FASTER = 4, 2.5


class Question(NamedTuple):
    """A model and what is asked of it."""

    name: str
    model: nn.Module
    x: Tensor
    target: Target
    preprocessing: Preprocessing


class Answer(NamedTuple):
    """Heatmaps (N, H, W), gradients an image (N,), images that are flagged, seconds; the error estimates, if any."""

    heatmaps: Tensor
    gradients: Tensor
    flagged: int
    seconds: float
    estimate: Tensor | None = None


def trapezoid(q: Question, intervals: int, points: int) -> Answer:
    """The plain rule from black."""
    start = time.perf_counter()
    direction = q.x - q.preprocessing.bounds()[0]
    total = torch.zeros_like(q.x)
    places = torch.linspace(0, 1, intervals + 1)
    weights = torch.full_like(places, 1 / intervals)
    weights[[0, -1]] /= 2
    each = max(1, points // len(q.x))
    for part, weight in zip(places.split(each), weights.split(each)):
        at = q.x - (1 - part)[:, None, None, None, None] * direction
        rows = torch.arange(len(q.x)).repeat(len(part))
        _, slope = value_and_gradient(q.model, at.flatten(0, 1), q.target.take(rows))
        total += (slope.unflatten(0, (len(part), -1)) * weight[:, None, None, None, None]).sum(dim=0)
    heatmaps = (total * direction).sum(dim=1)
    return Answer(heatmaps, torch.full((len(q.x),), intervals + 1), 0, time.perf_counter() - start)


def ours(q: Question, explainer: IntegratedGradients, points: int) -> Answer:
    """What the explainer gives."""
    start = time.perf_counter()
    maps = explainer.attribute(q.model, q.x, q.target, q.preprocessing, Room(points))
    seconds = time.perf_counter() - start
    _, flagged = explainer.judge(maps.measured)
    estimate = maps.measured.get("error_estimate")
    return Answer(maps.relevance.sum(dim=1), maps.measured["gradients"], len(flagged), seconds, estimate)


def restarts(q: Question, points: int) -> Answer:
    """Points doubled, from nothing each time, for images whose residual is above 2% of |f(x) - f(b)|."""
    start = time.perf_counter()
    black = q.preprocessing.bounds()[0].expand(1, 1, *q.x.shape[1:])
    owed, _ = explained_difference(q.model, q.x, black, q.target, points)
    heatmaps, gradients = torch.zeros(q.x.shape[0], *q.x.shape[2:]), torch.zeros(len(q.x))
    left = torch.arange(len(q.x))
    for steps in DOUBLED:
        part = q._replace(x=q.x[left], target=q.target.take(left))
        heatmaps[left] = ours(part, IntegratedGradients(steps=steps), points).heatmaps
        gradients[left] += steps
        defect = (heatmaps[left].double().sum(dim=(1, 2)) - owed[left]).abs()
        left = left[~(defect <= 0.02 * owed[left].abs())]
        if not len(left):
            break
    return Answer(heatmaps, gradients, len(left), time.perf_counter() - start)


def questions(assets: Assets, models: dict[str, nn.Module], images: ImageSet) -> list[Question]:
    """What speaks for each image's class rather than the one that the pair's teacher holds likeliest of the others."""
    pair = assets.pair
    target = make_target(predict_logits(pair.teacher, images, pair.preprocessing), images.labels)
    x = pair.preprocessing(images.images)
    return [
        Question(name, private_copy(model).eval().requires_grad_(False), x, target, pair.preprocessing)
        for name, model in models.items()
    ]


def of_run(folder: str, method: str) -> list[Question]:
    """The run's teacher, and its first student of a method."""
    run = open_run(folder)
    assets = load_assets(run.config)
    student = next(name for name in run.students if name.startswith(f"{method}/"))
    return questions(assets, {"teacher of the run": assets.pair.teacher, student: run.student(student)}, run.images)


def of_cifar(checkpoint: str, data: str, images: int) -> list[Question]:
    """A CIFAR-100 teacher, on test images of five classes."""
    config = RunConfig(
        data=DataConfig(dataset=data, subtask="people"),
        teacher=TeacherConfig(checkpoint=checkpoint, architecture="resnet18-cifar", classes="cifar100"),
    )
    assets = load_assets(config)
    return questions(assets, {"CIFAR-100 teacher": assets.pair.teacher}, assets.task.test.sample(images))


def of_vit(path: Path, images: int) -> list[Question]:
    """A network that `vit_lrp.py` has trained, on test images."""
    model = network(0)
    model.load_state_dict(torch.load(path, weights_only=True))
    test, preprocessing = load_task("fashion-mnist", "all").test.sample(images), preprocessing_for("fashion-mnist")
    target = make_target(predict_logits(model, test, preprocessing), test.labels)
    model = private_copy(model).eval().requires_grad_(False)
    return [Question(f"ViT of {path.stem}", model, preprocessing(test.images), target, preprocessing)]


def errors(answer: Answer, reference: Tensor) -> Tensor:
    """The relative L2 error of each heatmap."""
    return (answer.heatmaps - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def report(q: Question, points: int) -> bool:
    """Print the table of one model; True where every bar is held."""
    rules: dict[str, Callable[[], Answer]] = {
        "adaptive": lambda: ours(q, IntegratedGradients(), points),
        "restarts": lambda: restarts(q, points),
        **{f"legendre {n}": lambda n=n: ours(q, IntegratedGradients(steps=n), points) for n in LEGENDRE},
        **{f"trapezoid {n}": lambda n=n: trapezoid(q, n, points) for n in TRAPEZOID},
    }
    reference = trapezoid(q, REFERENCE, points).heatmaps
    print(f"\n{q.name}: {len(q.x)} images of {q.x.shape[2]}x{q.x.shape[3]}, {points} points in a pass")
    print(
        f"{'rule':14s}{'error: median':>14s}{'95%':>9s}{'largest':>9s}{'gradients: median':>19s}{'mean':>7s}"
        f"{'largest':>9s}{'flagged':>9s}{'seconds':>9s}"
    )
    answers = {}
    for name, rule in rules.items():
        answer = answers[name] = rule()
        error, gradients = errors(answer, reference), answer.gradients.double()
        print(
            f"{name:14s}{float(error.median()):14.4f}{float(error.quantile(0.95)):9.4f}{float(error.max()):9.4f}"
            f"{float(gradients.median()):19.0f}{float(gradients.mean()):7.1f}{float(gradients.max()):9.0f}"
            f"{answer.flagged:9d}{answer.seconds:9.2f}"
        )
    own, before = answers["adaptive"], answers["restarts"]
    error = errors(own, reference)
    assert own.estimate is not None
    ratio = own.estimate / error
    span = f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}"
    print(f"  estimate / error: median {float(ratio.median()):.2f}, {span}")
    near = float(((ratio > 1 / 1.5) & (ratio < 1.5)).double().mean())
    fewer = float(before.gradients.double().mean() / own.gradients.double().mean())
    faster = before.seconds / own.seconds
    equal = next((n for n in LEGENDRE if errors(answers[f"legendre {n}"], reference).median() <= error.median()), None)
    within, flagged = float((error <= 0.025).double().mean()), own.flagged / len(q.x)
    bars = {
        f"error at most 2.5% for {within:.0%} of images (95%)": within >= 0.95,
        f"flagged {flagged:.1%} (at most 2%)": flagged <= 0.02,
        f"median gradients {float(own.gradients.median()):.0f} (at most 80)": float(own.gradients.median()) <= 80,
        f"estimate within a factor 1.5 of the error for {near:.0%} of images (90%)": near >= 0.9,
        f"{fewer:.1f} times fewer gradients than restarts ({FEWER})": fewer >= FEWER,
        f"{faster:.1f} times faster than restarts ({FASTER})": faster >= FASTER,
        f"Gauss-Legendre reaches the same median error with {equal or f'more than {LEGENDRE[-1]}'} points, "
        f"ours takes {float(own.gradients.double().mean()):.0f} on average": (
            equal is None or equal >= float(own.gradients.double().mean())
        ),
    }
    for text, held in bars.items():
        print(f"  {'held    ' if held else 'NOT held'}  {text}")
    return all(bars.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a finished run: its teacher and one of its students")
    parser.add_argument("--method", default="subdistill", help="whose student")
    parser.add_argument("--teacher", help="a CIFAR-100 checkpoint of a ResNet-18")
    parser.add_argument("--data", help="images for it, as imagefolder:PATH")
    parser.add_argument("--vit", type=Path, nargs="*", default=[], help="networks that vit_lrp.py has trained")
    parser.add_argument("--images", type=int, default=32, help="for a teacher or a ViT")
    parser.add_argument("--points", type=int, default=64, help="inputs in one pass")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.run and not options.vit and not (options.teacher and options.data):
        parser.error("name a --run, a --vit, or a --teacher and its --data")

    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    )
    asked = of_run(options.run, options.method) if options.run else []
    asked += of_cifar(options.teacher, options.data, options.images) if options.teacher else []
    asked += [question for path in options.vit for question in of_vit(path, options.images)]
    held = [report(q, options.points) for q in asked]
    print("\nevery bar is held" if all(held) else "\nNOT every bar is held")


if __name__ == "__main__":
    main()

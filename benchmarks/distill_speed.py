"""SubDistill by the plain recipe and by xaibench, side by side: seconds, end to end, and validation accuracy.

    python benchmarks/distill_speed.py --data imagefolder:CIFAR100 --teacher cifar100_resnet18.pth --out speed.json

The plain recipe computes in float32. Ours takes each of --precision in turn: `--precision auto 32-true` adds, on a
machine with bfloat16, the row of those without it.

Both sides get the same images, splits, student initialisation, number of epochs and batch size, and run in turn in one
process. Every finished run is written to --out; started again with the same --out, finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import torch
from plain_recipe import PlainData, train_plain
from torch import nn

from xaibench.allocator import kept_memory
from xaibench.data.datasets import CLASS_LISTS, preprocessing_for
from xaibench.data.tasks import Task, load_task
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import SubDistill
from xaibench.distillation.recipe import PRECISIONS, Recipe, resolve_precision
from xaibench.files import write_json
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint
from xaibench.models.class_slice import class_indices
from xaibench.models.pair import ModelPair

PARTS = ("basis", "teacher cache", "training", "validation", "other")

# Functions of the library whose seconds make up a part; what is left of an epoch is training.
TIMED = (
    ("basis", "xaibench.distillation.distill", "measure_moments"),
    ("basis", "xaibench.distillation.methods.subdistill", "make_basis"),
    ("teacher cache", "xaibench.distillation.distill", "teacher_source"),
    ("validation", "xaibench.distillation.trainer", "_validate"),
)


def run_plain(task: Task, teacher: nn.Module, card: ModelCard, student: nn.Module, seed: int, epochs: int) -> dict:
    pre = preprocessing_for("cifar100")
    train, validation = task.train, task.validation
    data = PlainData(train.images, train.labels, validation.images, validation.labels, pre.mean, pre.std)
    classes = list(class_indices(card.classes, task.subtask.classes))
    started = time.perf_counter()
    result = train_plain(teacher, student, classes, data, epochs=epochs, seed=seed)
    total = time.perf_counter() - started
    return _entry(total, result.seconds, result.accuracies)


def run_ours(task: Task, teacher: nn.Module, card: ModelCard, student: nn.Module, seed: int, recipe: Recipe) -> dict:
    pair = ModelPair.create(
        teacher,
        student,
        classes=task.subtask.classes,
        preprocessing=card.preprocessing,
        teacher_classes=card.classes,
        input_size=(task.train.shape[1], task.train.shape[2]),
    )
    started = time.perf_counter()
    with timed_parts() as seconds, kept_memory():
        run = distill(pair, task, SubDistill(), recipe, seed=seed)
    total = time.perf_counter() - started
    seconds["training"] = float(run.history["seconds"].sum()) - seconds["validation"]
    return _entry(total, seconds, run.history["validation_accuracy"].tolist())


def _entry(total: float, seconds: dict[str, float], accuracies: list[float]) -> dict:
    parts = {part: seconds.get(part, 0.0) for part in PARTS}
    parts["other"] = total - sum(parts.values())
    return {"total": total, "seconds": parts, "best": max(accuracies), "accuracies": accuracies}


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Within the block, the seconds spent in the functions of `TIMED` add up in the yielded dict."""
    seconds = dict.fromkeys((part for part, _, _ in TIMED), 0.0)

    def wrapper(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - started

        return timed

    with ExitStack() as stack:
        for part, module_name, name in TIMED:
            module = importlib.import_module(module_name)
            stack.enter_context(mock.patch.object(module, name, wrapper(part, getattr(module, name))))
        yield seconds


def report(entries: list[dict], students: list[str], time_seeds: list[int]) -> str:
    lines = []
    for student in students:
        of: dict[str, list[dict]] = {}
        for entry in sorted((e for e in entries if e["student"] == student), key=lambda e: e["seed"]):
            of.setdefault(entry["which"], []).append(entry)
        of = {side: of[side] for side in sorted(of, key=lambda side: side != "plain")}
        lines += ["", f"student {student}"]
        lines += [f"{'':17s}" + "".join(f"{part:>15s}" for part in (*PARTS, "total [s]"))]
        totals = {}
        for side, runs in of.items():
            timed = [e for e in runs if e["seed"] in time_seeds]
            if timed:
                totals[side] = fmean(e["total"] for e in timed)
                cells = [fmean(e["seconds"][part] for e in timed) for part in PARTS]
                lines.append(f"{side:17s}" + "".join(f"{value:15.1f}" for value in (*cells, totals[side])))
        for side, total in totals.items():
            if side != "plain" and "plain" in totals:
                lines.append(f"plain / {side}  {totals['plain'] / total:.2f}, end to end")
        for side, runs in of.items():
            each = "  ".join(f"seed {e['seed']}: {e['best']:.4f}" for e in runs)
            lines.append(f"{side:17s}best validation accuracy  {each}  mean {fmean(e['best'] for e in runs):.4f}")
        for side, runs in of.items():
            shared = {e["seed"] for e in runs} & {e["seed"] for e in of.get("plain", [])}
            if side != "plain" and shared:
                ours, plain = (fmean(e["best"] for e in of[w] if e["seed"] in shared) for w in (side, "plain"))
                points = 100 * (ours - plain)
                lines.append(
                    f"{side} - plain  {points:+.2f} points of validation accuracy, mean of {len(shared)} seeds"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="dataset name, as imagefolder:PATH or cifar100")
    parser.add_argument("--root", help="folder of a torchvision dataset")
    parser.add_argument("--teacher", required=True, help="state dict of a CIFAR-stem ResNet-18 on CIFAR-100's classes")
    parser.add_argument("--subtask", default="people")
    parser.add_argument("--students", nargs="+", default=["56-56-40-40", "32-24-16-8"])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--views", type=int, default=4, help="augmented views an image on our side")
    parser.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["auto"], help="on our side, one row each"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--time-seeds", type=int, help="take the seconds of the first N seeds only (default: all)")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training images")
    parser.add_argument("--only", choices=("plain", "ours"))
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    settings = {
        "subtask": args.subtask,
        "epochs": args.epochs,
        "views": args.views,
        "fraction": args.fraction,
        "batch size": Recipe().batch_size,
        "threads": torch.get_num_threads(),
        "processor": f"{os.cpu_count()} x {platform.machine()}",
        "oneDNN": os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT"),
        "torch": torch.__version__,
    }
    results = {"settings": settings, "runs": []}
    if args.out.exists():
        results = json.loads(args.out.read_text(encoding="utf-8"))
        if results["settings"] != settings:
            sys.exit(f"{args.out} holds runs with other settings: choose another --out or delete it")

    task = load_task(args.data, args.subtask, root=args.root, fraction=args.fraction)
    pre = preprocessing_for("cifar100")
    teacher, card = load_checkpoint(args.teacher, "resnet18-cifar", CLASS_LISTS["cifar100"], pre)
    print(task)
    ours = {f"ours {precision}": precision for precision in map(resolve_precision, args.precision)}
    sides = {"plain": ["plain"], "ours": list(ours)}
    done = {(e["which"], e["student"], e["seed"]) for e in results["runs"]}
    for name in args.students:
        for seed in args.seeds:
            for which in sides[args.only] if args.only else ["plain", *ours]:
                if (which, name, seed) in done:
                    continue
                student = build_model(f"resnet18-cifar:{name}", len(task.subtask.classes), seed=seed)
                if which == "plain":
                    entry = run_plain(task, teacher, card, student, seed, args.epochs)
                else:
                    recipe = Recipe(epochs=args.epochs, views=args.views, precision=ours[which])
                    entry = run_ours(task, teacher, card, student, seed, recipe)
                results["runs"].append({"which": which, "student": name, "seed": seed} | entry)
                write_json(args.out, results)
                print(f"{which:17s}{name}  seed {seed}  {entry['total']:.1f} s  best {entry['best']:.4f}", flush=True)
    print(report(results["runs"], args.students, args.seeds[: args.time_seeds]))


if __name__ == "__main__":
    main()

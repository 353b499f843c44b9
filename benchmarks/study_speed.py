"""What a study saves over its runs one by one, what its runner costs, and how Ray compares with local processes.

    python benchmarks/study_speed.py [--workers 2] [--parts separate,study,ray,overhead] [--set train.epochs=2 ...]

One grid of 12 students (two subtasks of Fashion-MNIST, three methods, two seeds), always on the same cores:

separate  12 calls of `xaibench run`, one after the other, each with all cores
study     `xaibench study` with --workers processes of one thread
ray       the same with --engine ray
overhead  of a study in this process (engine `Serial`): the shares of its time that are spent neither in a piece of
          work nor on tables, figures and page at the end (reading and writing its own files, choosing what comes
          next), and on these
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from xaibench.study.config import StudyConfig
from xaibench.study.engines import Serial
from xaibench.study.folder import Study
from xaibench.study.run_study import run_study
from xaibench.study.schedule import Event

METHODS, SEEDS, SUBTASKS = ("student-only", "kd", "subdistill"), (0, 1), ("tops", "footwear")

RUN = f"""
methods = {list(METHODS)}
seeds = {list(SEEDS)}
data.dataset = "fashion-mnist"
data.fraction = 0.25
student.architecture = "resnet18-cifar:16-16-16-16@16"
train = {{epochs = 4, lr = 2e-3, views = 2}}
explain = {{images = 16}}
"""
STUDY = f"{RUN}vary.data.subtask = {list(SUBTASKS)}\n".replace("vary.data.subtask", 'vary."data.subtask"')


@dataclass(frozen=True)
class Overhead:
    """Seconds of a whole study, of the pieces of work in it, and of what comes after the last."""

    whole: float
    pieces: float
    ending: float

    def __str__(self) -> str:
        runner = self.whole - self.pieces - self.ending
        return (
            f"{runner:.2f} of {self.whole:.0f} s ({runner / self.whole:.2%}), tables, figures and page "
            f"{self.ending:.1f} s ({self.ending / self.whole:.1%})"
        )


def separate_runs(folder: Path, changes: Sequence[str] = ()) -> float:
    """Seconds of all students, a run each, one after the other."""
    config = _written(folder, RUN)
    began = time.monotonic()
    for number, (subtask, method, seed) in enumerate(product(SUBTASKS, METHODS, SEEDS)):
        cell = (f"data.subtask={subtask}", f"methods=['{method}']", f"seeds=[{seed}]")
        _call("run", config, folder / f"{number}", [*changes, *cell])
    return time.monotonic() - began


def whole_study(folder: Path, changes: Sequence[str] = (), *options: str) -> float:
    """Seconds of the study, by its command."""
    config = _written(folder, STUDY)
    began = time.monotonic()
    _call("study", config, folder / "study", changes, *options)
    return time.monotonic() - began


def overhead(folder: Path, changes: Sequence[str] = ()) -> Overhead:
    """Of the study in this process."""
    pieces: list[float] = []
    last = 0.0

    def watch(study: Study, event: Event) -> None:
        nonlocal last
        last = time.monotonic()
        if event.outcome is not None:
            pieces.append(event.outcome.seconds)

    config = StudyConfig.load(_written(folder, STUDY), changes)
    began = time.monotonic()
    study = run_study(config, folder / "study", engine=Serial, watch=watch)
    ended = time.monotonic()
    if len(study.finished_runs) < len(study.runs) or study.failures:
        raise SystemExit(f"the study is not complete: {study.failures}")
    return Overhead(ended - began, sum(pieces), ended - last)


def _written(folder: Path, config: str) -> Path:
    folder.mkdir(parents=True)
    path = folder / "config.toml"
    path.write_text(config, encoding="utf-8")
    return path


def _call(command: str, config: Path, out: Path, changes: Sequence[str], *options: str) -> None:
    sets = [f"--set={change}" for change in changes]
    call = [sys.executable, "-m", "xaibench", command, str(config), "--out", str(out), *sets, *options]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parts", default="separate,study,ray,overhead")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    workers, changes = (f"--workers={options.workers}",), options.changes
    measures: dict[str, Callable[[Path], float | Overhead]] = {
        "separate": lambda folder: separate_runs(folder, changes),
        "study": lambda folder: whole_study(folder, changes, *workers, "--threads=1"),
        "ray": lambda folder: whole_study(folder, changes, *workers, "--engine=ray"),
        "overhead": lambda folder: overhead(folder, changes),
    }
    cores = os.cpu_count()
    print(f"12 students, {options.workers} workers, {cores} x {platform.processor() or platform.machine()}", flush=True)
    print(f"torch {torch.__version__}; seconds on the clock", flush=True)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for part in options.parts.split(","):
            found = measures[part](Path(temporary) / part)
            if isinstance(found, Overhead):
                print(f"overhead  {found}", flush=True)
                continue
            seconds[part] = found
            others = [f"{name} / {part} {seconds[name] / found:.2f}" for name in seconds if name != part]
            print("  ".join([f"{part:9s} {found:.0f} s", *others]), flush=True)


if __name__ == "__main__":
    main()

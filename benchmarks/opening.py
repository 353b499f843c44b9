"""How long a fresh Python takes until the first result of a finished run, and how much memory.

    python benchmarks/opening.py runs/demo

Each measurement is a process of its own, run once to fill the file cache and then `--repeats` times, in turn. Shown are
the medians of wall and processor seconds and the highest resident memory (Linux), beside those of `import torch` alone,
which everything but the help needs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

READ = """
import xaibench as xb
run = xb.open_run({run!r})
run.images, run.scores(), run.summary(), run.attribution("teacher", run.explainers[0])
"""


def steps(run: Path) -> dict[str, list[str]]:
    """What is measured -> the arguments of Python."""
    read = READ.format(run=str(run))
    return {
        "import torch": ["-c", "import torch"],
        "xaibench --help": ["-m", "xaibench", "--help"],
        "xaibench info": ["-m", "xaibench", "info"],
        "xaibench info RUN": ["-m", "xaibench", "info", str(run)],
        "open and read a run": ["-c", read],
        "... and its explorer": ["-c", f"{read}xb.explore(run)"],
    }


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and MiB of the highest resident memory of one process."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for repeat in range(options.repeats + 1):
        for name, arguments in steps(options.run.resolve()).items():
            result = measure(arguments)
            if repeat:
                measured.setdefault(name, []).append(result)
    medians = {name: [statistics.median(column) for column in zip(*results)] for name, results in measured.items()}
    torch = medians["import torch"]
    print(f"{'':22s}{'wall s':>8s}{'CPU s':>8s}{'x torch':>9s}{'MiB':>7s}{'- torch':>9s}")
    for name, (wall, cpu, memory) in medians.items():
        print(f"{name:22s}{wall:8.2f}{cpu:8.2f}{cpu / torch[1]:9.2f}{memory:7.0f}{memory - torch[2]:+9.0f}")


if __name__ == "__main__":
    main()

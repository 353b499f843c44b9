"""Does a study that is killed again and again come to the results of one that was left alone, byte for byte?

    python benchmarks/study_kills.py --kills 20

A small study (two subtasks, two methods, two seeds) is started and killed with SIGKILL at random moments, until it has
been killed so often, and then left to end. Moments are spread over the time that the study takes when left alone.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SETTINGS = ("seeds=[0,1]", "train.epochs=2", "explain.images=4", "methods=['student-only','subdistill']")
STUDY = ["demo", "--scale", "small", *(f"--set={one}" for one in SETTINGS)]


@dataclass(frozen=True)
class Kills:
    """kills; studies that ended before they were killed; whether every `scores.csv` is that of the study left alone."""

    kills: int
    finished_early: int
    same: bool


def kill_study(folder: Path, kills: int, *options: str, seed: int = 0) -> Kills:
    """Start a study, kill it `kills` times at random moments, let it end; compare it with one left alone."""
    began = time.monotonic()
    _run(folder / "alone", options).communicate()
    whole = time.monotonic() - began
    moments = random.Random(seed)
    done = early = 0
    while done < kills:
        process = _run(folder / f"killed{early}", options)
        try:
            process.communicate(timeout=moments.uniform(0.1, 0.5) * whole)
            early += 1  # ended before it was killed: kills go on with another one
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            print(f"kill {done} of {kills}", file=sys.stderr)
    studies = [folder / f"killed{number}" for number in range(early + 1)]
    for study in studies:
        _run(study, options).communicate()
    expected = (folder / "alone" / "scores.csv").read_bytes()
    return Kills(done, early, all((study / "scores.csv").read_bytes() == expected for study in studies))


def _run(out: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "xaibench", "study", *STUDY, "--out", str(out), "--accelerator", "cpu"]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", default="local", help="local, or ray")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_study(Path(folder), options.kills, "--engine", options.engine, seed=options.seed)
    print(f"{found.kills} kills of {found.finished_early + 1} studies")
    print(f"scores.csv as of the study left alone, byte for byte: {'yes' if found.same else 'NO'}")
    return 0 if found.same else 1


if __name__ == "__main__":
    raise SystemExit(main())

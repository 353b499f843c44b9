"""The pieces that the work of a study falls into.

    prepare RUN            the run folder, moments of the teacher's layers, explanations of teacher and null: once a run
    student RUN STUDENT    train one student and explain it; any number of them beside each other
    finish RUN             scores, figures and report of the run, from what lies there

A piece writes only what no other piece writes, so that engines differ only in where they have it done (see `work`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xaibench.run.config import RunConfig
from xaibench.run.folder import Run

__all__ = ["Outcome", "Task", "tasks_of"]

Kind = Literal["prepare", "student", "finish"]


@dataclass(frozen=True)
class Task:
    """A piece of work: hashable, picklable, with absolute paths.

    folder   the run folder
    config   of the run
    student  "kd/seed0", of kind "student"
    """

    kind: Kind
    folder: Path
    config: RunConfig
    student: str = ""

    @property
    def name(self) -> str:
        return " ".join([self.kind, self.folder.name, self.student]).strip()

    @property
    def file_name(self) -> str:
        """`name` as the stem of a file's name."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)

    @property
    def lock(self) -> Path:
        """File that is locked by the process that does it, so that what a killed study left behind ends first."""
        return self.folder.parents[1] / "work" / "locks" / f"{self.file_name}.lock"


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended.

    error      why it failed, in one line; "" if it did not
    traceback  where it failed
    hopeless   whether everything else would fail, too (a full disk)
    seconds    it took
    peak       bytes of memory that its process ever had, 0 where that is not known
    """

    error: str = ""
    traceback: str = ""
    hopeless: bool = False
    seconds: float = 0.0
    peak: int = 0


def tasks_of(folder: Path, config: RunConfig) -> tuple[Task, ...]:
    """All pieces of one run, the first to prepare it, the last to finish it."""
    run = Run(folder, config)
    students = (Task("student", folder, config, name) for name in run.jobs)
    return Task("prepare", folder, config), *students, Task("finish", folder, config)

"""A study folder: a run folder for each point of the grid, and what they say together.

study.json                the grid: written when the study begins, and when it is extended
runs/NAME/                a run folder each, see `xaibench.run.folder`
failures/TASK.txt         what failed, with its traceback; gone once it succeeds
work/                     logs of processes, locks/ of what is being done
scores.csv  students.csv  methods.csv  differences.csv  report.html ...
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xaibench.errors import RunFolderError, XaibenchError
from xaibench.files import write_json, write_text
from xaibench.run.config import RunConfig
from xaibench.run.extending import first_difference
from xaibench.run.folder import Run, open_run
from xaibench.study.config import StudyConfig
from xaibench.study.grid import Condition
from xaibench.study.tasks import Task
from xaibench.validation import checked

__all__ = ["Study", "begin_study", "locked", "open_study"]

_KEYS = ("conditions", "axes", "about", "claim", "control")


@dataclass(frozen=True, eq=False)
class Study:
    """A study folder. `runs` are ordinary runs: everything that can be asked of a run can be asked of each."""

    folder: Path
    config: StudyConfig

    def __repr__(self) -> str:
        done = sum(run.is_distilled(name) for run in self.runs.values() for name in run.jobs)
        return f"Study({self.folder}, {len(self.runs)} runs, {done} of {self.config.students} students distilled)"

    @cached_property
    def runs(self) -> dict[str, Run]:
        """Name of a point of the grid -> its run, in the order of the grid. Some may not have begun."""
        return {one.name: Run(self.folder / "runs" / one.name, one.config) for one in self.config.conditions}

    @property
    def finished_runs(self) -> dict[str, Run]:
        """Those of `runs` that have been scored."""
        return {name: run for name, run in self.runs.items() if run.finished}

    @property
    def finished(self) -> bool:
        """Whether every run is, with all its students."""
        return all(run.finished and not run.failures for run in self.runs.values())

    def failure_path(self, task: Task) -> Path:
        """Where the traceback of a failed task lies."""
        return self.folder / "failures" / f"{task.file_name}.txt"

    @property
    def failures(self) -> dict[str, str]:
        """Task that failed -> why, in one line."""
        found = {}
        for path in sorted((self.folder / "failures").glob("*.txt")):
            name, _, rest = path.read_text(encoding="utf-8").partition(": ")
            found[name] = rest.partition("\n")[0]
        return found


def keep_failures(study: Study, left: Iterable[Task]) -> None:
    """Forget failures of what need not be done any more."""
    kept = {study.failure_path(task) for task in left}
    for path in (study.folder / "failures").glob("*.txt"):
        if path not in kept:
            path.unlink(missing_ok=True)


@checked(error=RunFolderError)
def open_study(folder: Path | str) -> Study:
    """Open an existing study folder. Raises RunFolderError where there is none, or one that cannot be read."""
    folder = Path(folder).absolute()
    path = folder / "study.json"
    if not path.is_file():
        raise RunFolderError(f"no study in {folder} (it has no study.json): make one with 'xaibench study'")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in held]
        if missing:
            raise KeyError(missing[0])
        conditions = tuple(
            Condition(one["name"], tuple(map(tuple, one["levels"])), RunConfig.from_dict(one["config"]))
            for one in held["conditions"]
        )
        axes = tuple((axis, tuple(levels)) for axis, levels in held["axes"])
        own = (held[key] for key in ("about", "claim", "control"))
        return Study(folder, StudyConfig(conditions, axes, *own))
    except XaibenchError as error:
        raise RunFolderError(f"{path} was written by another version ({error}): start in another folder") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is corrupt ({error}): start in another folder") from error


def begin_study(config: StudyConfig, folder: Path, command: str, *, extend: bool = False) -> Study:
    """Make a study folder, or reopen it where it holds the same study.

    extend  it may hold another one: runs that both have keep their students

    Raises RunFolderError for a folder with other contents, and for runs that differ in what students are made of.
    """
    if (folder / "study.json").is_file():
        held = open_study(folder)
        if held.config == config:
            return held
        if not extend and _difference(held.config, config):
            raise RunFolderError(
                f"{folder} holds another study ({_difference(held.config, config)}): choose another folder, or add "
                "--extend to keep the students that both have"
            )
        for condition in config.conditions:
            _check_extensible(folder / "runs" / condition.name, condition.config)
    elif folder.exists() and any(path.name != "work" for path in folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and holds no study: choose another folder")
    write_json(folder / "study.json", _record(config, command))
    return Study(folder, config)


def _check_extensible(folder: Path, wanted: RunConfig) -> None:
    if not (folder / "manifest.json").is_file():
        return
    if different := first_difference(open_run(folder).config, wanted, extend=True):
        raise RunFolderError(
            f"{folder} holds a run whose students were made in another way ({different}): choose another study folder"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block no other process works on the folder; RunFolderError where one does already."""
    path = folder / "work" / "runner.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(f"another process works on {folder}: wait until it is done, or stop it") from None
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder} ({error.strerror}): choose another study folder") from error
    try:
        yield
    finally:
        lock.release()


def record_failure(study: Study, task: Task, error: str, traceback: str) -> None:
    """Put on record that a task failed."""
    write_text(study.failure_path(task), f"{task.name}: {error}\n\n{traceback}")
    if task.student:
        study.runs[task.folder.name].student_folder(task.student).fail(error, traceback)


def forget_failure(study: Study, task: Task) -> None:
    """A task succeeded."""
    study.failure_path(task).unlink(missing_ok=True)


def _record(config: StudyConfig, command: str) -> dict[str, Any]:
    conditions = [
        {"name": one.name, "levels": [list(level) for level in one.levels], "config": one.config.to_dict()}
        for one in config.conditions
    ]
    return {
        "xaibench": version("xaibench"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "about": config.about,
        "claim": config.claim,
        "control": config.control,
        "axes": [[axis, list(levels)] for axis, levels in config.axes],
        "conditions": conditions,
    }


def _difference(old: StudyConfig, new: StudyConfig) -> str:
    """What tells two studies apart; "" where they are the same."""
    for name in ("claim", "control"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            return f"{name} was {before!r}, now {now!r}"
    held, wanted = ({one.name: one.config for one in config.conditions} for config in (old, new))
    for name in [*held, *wanted]:
        if name not in wanted or name not in held:
            return f"its run {name} is not asked for now" if name not in wanted else f"it has no run {name}"
        if held[name] != wanted[name]:
            return f"its run {name} has other settings"
    return ""

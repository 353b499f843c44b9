"""The whole of a study: a grid of runs, done by an engine; what is there already is kept."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from xaibench.errors import RunFolderError
from xaibench.study.config import StudyConfig
from xaibench.study.engines import Engine, Processes
from xaibench.study.folder import Study, begin_study, forget_failure, keep_failures, locked, open_study, record_failure
from xaibench.study.results import write_results
from xaibench.study.schedule import Event, Needs, work_off
from xaibench.study.tasks import Task, tasks_of
from xaibench.study.work import forget_opened
from xaibench.validation import checked

__all__ = ["run_study", "tasks_left"]

_log = logging.getLogger(__name__)


@checked
def run_study(
    config: StudyConfig | str | Path,
    folder: Path | str,
    *,
    engine: Callable[[Path], Engine] = Processes,
    scale: str = "full",
    extend: bool = False,
    watch: Callable[[Study, Event], object] = lambda study, event: None,
) -> Study:
    """Do all runs of a study into `folder`; what is already there is kept, so that a killed study resumes.

    config  a StudyConfig, a TOML file or the name of a preset
    engine  makes, from the folder for its logs, what does the work: `Processes`, `RayCluster`, or one with options
            by `functools.partial`
    scale   "small" applies the configuration's [small]
    extend  the folder may hold another study: runs that both have keep their students
    watch   is told when a piece of work begins and when it ends

    A student that cannot be trained or explained is recorded with its traceback (`Study.failures`) and left out;
    everything else goes on, and the next call tries it again. Raises RunFolderError for a folder with other contents,
    one that another process works on, and a full disk.
    """
    config = config if isinstance(config, StudyConfig) else StudyConfig.load(config, scale=scale)
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another study folder")
    if (folder / "study.json").is_file():
        open_study(folder)
    forget_opened()
    with locked(folder):
        study = begin_study(config, folder, " ".join(["xaibench", *sys.argv[1:]]), extend=extend)
        needs = tasks_left(study)
        if needs:
            for event in work_off(needs, engine(folder / "work"), _possible(study)):
                _keep_record(study, event)
                watch(study, event)
        keep_failures(study, tasks_left(study))
        write_results(study)
    return study


def tasks_left(study: Study) -> Needs:
    """What is still to be done, each with what must end before it."""
    needs: dict[Task, frozenset[Task]] = {}
    prepared: dict[str, Task] = {}  # what is explained in common -> the last task that prepares a run for it
    for run in study.runs.values():
        if run.finished and not run.failures:
            continue
        prepare, *students, finish = tasks_of(run.folder, run.config)
        config = run.config.to_dict()
        common = json.dumps([config["teacher"], config["data"]["dataset"], config["data"]["subtask"]], default=str)
        needs[prepare] = frozenset({prepared[common]} if common in prepared else ())
        prepared[common] = prepare
        needs |= {student: frozenset({prepare}) for student in students}
        needs[finish] = frozenset({prepare, *students})
    return needs


def _possible(study: Study) -> Callable[[Task, Iterable[Task]], bool]:
    def possible(task: Task, failed: Iterable[Task]) -> bool:
        if task.kind == "student":
            return not list(failed)
        if task.kind == "finish":  # of the students that there are
            run = study.runs[task.folder.name]
            prepared = all(one.kind != "prepare" for one in failed)
            return prepared and any(run.is_distilled(name) for name in run.students)
        return True

    return possible


def _keep_record(study: Study, event: Event) -> None:
    if event.outcome is None:
        return
    if not event.outcome.error:
        forget_failure(study, event.task)
        return
    if event.outcome.hopeless:
        raise RunFolderError(f"{event.outcome.error} (the study goes on when it is started again)")
    _log.warning("%s failed: %s", event.task.name, event.outcome.error)
    record_failure(study, event.task, event.outcome.error, event.outcome.traceback)

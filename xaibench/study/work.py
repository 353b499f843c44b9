"""How one piece of a study's work is done, wherever it is done."""

from __future__ import annotations

import errno
import functools
import os
import sys
import time
import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from filelock import FileLock

from xaibench.distillation.distill import make_fabric
from xaibench.errors import XaibenchError
from xaibench.run.config import RunConfig
from xaibench.run.explaining import explain_ahead, explain_models
from xaibench.run.folder import TEACHER, UNTRAINED, Run
from xaibench.run.inputs import Assets
from xaibench.run.page import present
from xaibench.run.pipeline import create_run, reopen
from xaibench.run.scoring import score_models
from xaibench.run.training import check_trainable, shared_logits, shared_moments, train
from xaibench.study.tasks import Outcome, Task

__all__ = ["attempt", "forget_opened", "perform"]


def perform(task: Task, accelerator: str = "auto") -> None:
    """Do a piece of work; what is there already is kept, a training that was killed goes on."""
    fabric = make_fabric(task.config.train, accelerator)
    device = fabric.device
    if task.kind == "prepare":
        run, assets = create_run(task.config, task.folder, extend=True)
        if check_trainable(task.config, assets):
            shared_moments(run, assets, fabric)
        for name in (TEACHER, UNTRAINED):
            explain_ahead(run, assets, name, device)
        return
    run, assets = _opened(task.folder, task.config)
    if task.kind == "student":
        folder = run.student_folder(task.student).folder
        moments, remember = partial(shared_moments, run, assets, fabric), shared_logits(run, assets, fabric)
        job = run.jobs[task.student]
        train(job, folder, assets=assets, moments=moments, remember=remember, fabric=fabric)
        explain_ahead(run, assets, task.student, device)
    elif not run.finished:
        explain_models(run, assets, device)
        score_models(run)
        present(run)


def attempt(task: Task, accelerator: str = "auto") -> Outcome:
    """`perform` a task, once no other process does it; whatever goes wrong is told, not raised."""
    began = time.monotonic()
    error = trace = ""
    hopeless = False
    try:
        task.lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(task.lock):
            perform(task, accelerator)
    except Exception as raised:  # noqa: BLE001 - other cells go on, and this one is on record
        error = " ".join(str(raised).split()) or "no message"
        error = error if isinstance(raised, XaibenchError) else f"{type(raised).__name__}: {error}"
        trace, hopeless = traceback.format_exc(), _disk_is_full(raised)
    return Outcome(error, trace, hopeless, time.monotonic() - began, _peak())


@functools.lru_cache(maxsize=1)
def _opened(folder: Path, config: RunConfig) -> tuple[Run, Assets]:
    """The run that this process works on, with data and teacher loaded."""
    return reopen(Run(folder, config))


def forget_opened() -> None:
    """Load data and teacher anew: files may have changed since this process did its last study."""
    _opened.cache_clear()


def _disk_is_full(error: BaseException) -> bool:
    """Whether an error was, in the end, that of a disk without space."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(getattr(one, "errno", 0) in full or os.strerror(errno.ENOSPC) in str(one) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _peak() -> int:
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024

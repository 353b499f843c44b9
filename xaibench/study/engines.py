"""Where the work of a study is done: in processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Protocol

import torch

from xaibench.distillation.devices import ACCELERATORS
from xaibench.errors import ConfigError, unknown_name
from xaibench.study.tasks import Outcome, Task
from xaibench.study.work import attempt

__all__ = ["Engine", "Processes", "Serial", "available_memory"]

_log = logging.getLogger(__name__)

_GIB = 2**30


class Engine(Protocol):
    """Does tasks beside each other."""

    def start(self, task: Task) -> None:
        """Begin a task; to be called only where `has_room`."""

    def has_room(self) -> bool:
        """Whether one more task can be begun now."""

    def wait(self) -> tuple[Task, Outcome]:
        """Return when a task has ended."""

    def stop(self) -> None:
        """End everything, also what is being done."""


class Serial:
    """This process, one task after the other: for a debugger, and for notebooks.

    accelerator  "cpu", "cuda" or "auto"
    """

    def __init__(self, folder: Path, *, accelerator: str = "auto") -> None:
        _check_accelerator(accelerator)
        self._accelerator = accelerator
        self._task: Task | None = None

    def has_room(self) -> bool:
        return self._task is None

    def start(self, task: Task) -> None:
        self._task = task

    def wait(self) -> tuple[Task, Outcome]:
        task, self._task = self._task, None
        if task is None:
            raise RuntimeError("no task was started")
        return task, attempt(task, self._accelerator)

    def stop(self) -> None:
        self._task = None


class Processes:
    """Processes of this machine, one task each at a time. A script must call it below `if __name__ == "__main__":`.

    workers      how many; None: one for each `threads` cores
    threads      of each process. Training many students at once, one thread each is fastest
    memory       bytes that all may use together; None: four fifths of what is available. Until a first task has shown
                 what it needs, one is done at a time
    accelerator  "cpu", "cuda" or "auto"; with several GPUs, processes take turns with them
    folder       of log files, one a process
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int | None = None,
        threads: int = 1,
        memory: float | None = None,
        accelerator: str = "auto",
    ) -> None:
        for name, value in (("workers", workers), ("threads", threads), ("memory", memory)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}: leave it out for the default")
        _check_accelerator(accelerator)
        self.memory = 0.8 * available_memory() if memory is None else memory
        count = workers or max(1, _cores() // threads)
        self._peak = 0
        self._slots = [_Slot(folder, number, threads, accelerator) for number in range(count)]
        self._running: dict[Future[Outcome], tuple[_Slot, Task]] = {}

    def has_room(self) -> bool:
        if not self._running:
            return True
        busy = len(self._running)
        return busy < len(self._slots) and self._peak > 0 and (busy + 1) * self._peak <= self.memory

    def start(self, task: Task) -> None:
        busy = [slot for slot, _ in self._running.values()]
        slot = next(slot for slot in self._slots if slot not in busy)
        self._running[slot.submit(task)] = slot, task

    def wait(self) -> tuple[Task, Outcome]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        future = done.pop()
        slot, task = self._running.pop(future)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            slot.kill()
            outcome = Outcome(f"its process was killed (out of memory, or a crash): see {slot.log}")
        self._peak = max(self._peak, outcome.peak)
        return task, outcome

    def stop(self) -> None:
        for slot in self._slots:
            slot.kill()


class _Slot:
    """One process, which lives as long as nothing kills it."""

    def __init__(self, folder: Path, number: int, threads: int, accelerator: str) -> None:
        self.log = folder / f"worker{number}.log"
        self._begin = partial(_begin, self.log, number, threads)
        self._accelerator = accelerator
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, task: Task) -> Future[Outcome]:
        try:
            return self._process().submit(attempt, task, self._accelerator)
        except BrokenProcessPool:  # it was killed while it had nothing to do
            self.kill()
            return self._process().submit(attempt, task, self._accelerator)

    def _process(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, _context(), initializer=self._begin)
        return self._pool

    def kill(self) -> None:
        if self._pool is not None:
            for process in list(getattr(self._pool, "_processes", {}).values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _check_accelerator(accelerator: str) -> None:
    if accelerator not in ACCELERATORS:
        raise unknown_name("accelerator", accelerator, ACCELERATORS)


def _context() -> BaseContext:
    """How processes are begun: on Linux by a server that has imported what they need, once for all of them."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["xaibench.study.work"])
    return context


def _begin(log: Path, number: int, threads: int) -> None:
    """In a new process: end with the study, keep a log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the study itself is told, and ends this process
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_with(parent.join)
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout = sys.stderr = log.open("a", buffering=1, encoding="utf-8")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    if (gpus := torch.cuda.device_count()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = _own_gpu(number, gpus, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    torch.set_num_threads(threads)


def _own_gpu(number: int, gpus: int, visible: str) -> str:
    """The GPU of process `number`, of the `gpus` first ones that are visible (numbers or identifiers; "": all are)."""
    names = [name.strip() for name in visible.split(",") if name.strip()] or [str(place) for place in range(gpus)]
    return names[number % min(gpus, len(names))]


def _end_with(parent_ended: Callable[[], None]) -> None:
    def watch() -> None:
        parent_ended()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_memory() -> int:
    """Bytes that this process and its children may use: what is free, within the limit of its control group."""
    free = 8 * _GIB
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit != "max":
            free = min(free, int(limit) - used)
    except (OSError, ValueError, StopIteration):
        pass
    return max(free, _GIB)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

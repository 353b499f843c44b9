"""The work of a study on a Ray cluster, of one machine or of many."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from xaibench.errors import ConfigError
from xaibench.study.tasks import Outcome, Task
from xaibench.study.work import attempt

__all__ = ["RayCluster"]

_OBJECT_STORE = 2**27  # bytes; outcomes are small, results go to the study folder


class RayCluster:
    """Ray tasks, each with a share of a machine. Needs `pip install xaibench[ray]`.

    folder       in the study folder, which every machine must see under the same path
    address      of a cluster to join, "auto" for the one that this machine belongs to; None: a cluster of this machine
                 alone, which ends with the study, or the one that this process has joined before
    workers      tasks at once; None: as many as the cluster has CPUs and GPUs for. Where a cluster grows by itself, as
                 many as it is to grow to
    cpus, gpus   of each task, 0.5 GPUs for two tasks a GPU; a task uses as many threads as CPUs, at least one
    retries      of a task whose worker died. One that raised an error is not tried again
    accelerator  "cpu", "cuda" or "auto": cuda where `gpus` is above 0

    Raises ConfigError where Ray is missing or the cluster cannot be reached.
    """

    def __init__(
        self,
        folder: Path,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float = 0,
        retries: int = 2,
        accelerator: str = "auto",
    ) -> None:
        for name, value in (("workers", workers), ("cpus", cpus)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}: leave it out for the default")
        for name, value in (("gpus", gpus), ("retries", retries)):
            if not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {value}")
        if accelerator == "cuda" and not gpus:
            raise ConfigError("accelerator is cuda and no task has a GPU: give gpus, 1 or a fraction")
        self._ray = _ray()
        self._cpus, self._gpus, self._retries, self._workers = cpus, gpus, retries, workers
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, address, workers or max(1, int((os.cpu_count() or 1) // cpus)), cpus)
        if not self._places() and (address is None or workers is None):  # a cluster that grows is waited for
            if self._ours:
                self._ray.shutdown()
            raise ConfigError(
                f"no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a task: give fewer, or join a "
                "cluster that has them (address)"
            )
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("ray-*"):
            left.unlink()
        self._mark = folder / f"ray-{uuid.uuid4().hex}"
        self._mark.touch()
        threads = max(1, int(cpus))
        accelerator = accelerator if gpus else "cpu"
        task = self._ray.remote(_attempt).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
        self._submit: Callable[[Task], Any] = lambda one: task.remote(one, self._mark, threads, accelerator)
        self._running: dict[Any, Task] = {}
        self._slots = self._count()

    def has_room(self) -> bool:
        return len(self._running) < max(1, self._slots)

    def start(self, task: Task) -> None:
        self._running[self._submit(task)] = task

    def wait(self) -> tuple[Task, Outcome]:
        (reference, *_), _ = self._ray.wait(list(self._running))
        task = self._running.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            outcome = Outcome(f"its worker failed, after {self._retries} retries: {type(error).__name__}: {reason}")
        self._slots = self._count()
        return task, outcome

    def stop(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._ours:
            self._ray.shutdown()
        self._mark.unlink(missing_ok=True)

    def _count(self) -> int:
        """Tasks that the cluster has place for."""
        return self._places() if self._workers is None else self._workers

    def _places(self) -> int:
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            int(min(has.get("CPU", 0) / self._cpus, has.get("GPU", 0) / self._gpus if self._gpus else float("inf")))
            for has in alive
        )


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("the engine ray needs Ray: pip install 'xaibench[ray]'") from error


def _connect(ray: Any, address: str | None, workers: int, cpus: float) -> None:
    """Start a cluster on this machine, or join one; quietly."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=max(1, round(workers * cpus)),
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = "start Ray" if address is None else f"join the Ray cluster at {address!r}"
        raise ConfigError(f"cannot {where}: {' '.join(str(error).split())}") from error


def _attempt(task: Task, mark: Path, threads: int, accelerator: str) -> Outcome:
    """In a worker of the cluster."""
    if not mark.is_file():
        return Outcome(
            f"{platform.node()} does not see {mark.parent} as the runner does: put the study folder on storage that "
            "all machines share, under one path"
        )
    torch.set_num_threads(threads)
    return attempt(task, accelerator)

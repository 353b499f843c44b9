"""Which piece of work comes when: what it needs first, and what is already there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from xaibench.study.engines import Engine
from xaibench.study.tasks import Outcome, Task

__all__ = ["Event", "Needs", "work_off"]

Needs = Mapping[Task, frozenset[Task]]
"""Task -> those that must have ended before it."""


@dataclass(frozen=True)
class Event:
    """A task begins (no outcome yet) or has ended."""

    task: Task
    outcome: Outcome | None = None


def work_off(needs: Needs, engine: Engine, possible: Callable[[Task, Iterable[Task]], bool]) -> Iterator[Event]:
    """Do all tasks, in their order as far as their needs allow; yield an event when one begins and when one ends.

    possible  (task, those of its needs that failed) -> whether it can be done all the same; if not, it fails, too

    Ends early after a hopeless outcome. Whatever ends the iteration ends what the engine does.
    """
    waiting, ended, failed = list(needs), set[Task](), set[Task]()
    running = 0
    try:
        while waiting or running:
            for task in list(waiting):
                if not needs[task] <= ended:
                    continue
                if not possible(task, needs[task] & failed):
                    waiting.remove(task)
                    ended.add(task)
                    failed.add(task)
                elif engine.has_room():
                    waiting.remove(task)
                    engine.start(task)
                    running += 1
                    yield Event(task)
            if not running:
                continue  # tasks that cannot be done made way for others
            task, outcome = engine.wait()
            running -= 1
            ended.add(task)
            if outcome.error:
                failed.add(task)
            yield Event(task, outcome)
            if outcome.hopeless:
                return
    finally:
        engine.stop()

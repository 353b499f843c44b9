"""A study while it is done: a table that moves in a terminal, lines in a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from xaibench.study.folder import Study
from xaibench.study.schedule import Event
from xaibench.study.tasks import Task

__all__ = ["Watch", "watching"]

_ROWS = 30  # runs that the table lists


class Watch:
    """Keeps count of what is done; call it with every event of `run_study`."""

    def __init__(self, console: Console, tasks: int, students: int) -> None:
        self._console, self._tasks, self._students = console, tasks, students
        self._began = time.monotonic()
        self._running: dict[Task, float] = {}
        self._ended: Counter[str] = Counter()
        self._rows: dict[str, Counter[str]] = {}
        self.live: Live | None = None

    def __call__(self, study: Study, event: Event) -> None:
        task, outcome = event.task, event.outcome
        row = self._rows.setdefault(task.folder.name, Counter())
        if outcome is None:
            self._running[task] = time.monotonic()
        else:
            self._running.pop(task, None)
            self._ended[task.kind] += 1
            row["failed" if outcome.error else task.kind] += 1
            if self.live is None:
                how = f"failed: {outcome.error}" if outcome.error else "done"
                self._console.print(
                    f"{sum(self._ended.values())}/{self._tasks}  {task.name}  {how} in {_time(outcome.seconds)}"
                    f"  {self._left()}".rstrip(),
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        if self.live is not None:
            self.live.update(self._table(study))

    def _table(self, study: Study) -> Group:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("run", "prepared", "students", "failed", "scored"):
            table.add_column(column, justify="left" if column == "run" else "right")
        busy = {task.folder.name for task in self._running}
        names = list(study.runs)
        shown = (
            names if len(names) <= _ROWS else [name for name in names if name in busy or name in self._rows][-_ROWS:]
        )
        for name in shown:
            row, run = self._rows.get(name, Counter()), study.runs[name]
            done = run.finished
            students = sum(run.is_distilled(student) for student in run.jobs)
            table.add_row(
                Text(name, style="bold" if name in busy else ""),
                "yes" if row["prepare"] or done or students else "",
                f"{students}/{len(run.jobs)}",
                str(row["failed"] or ""),
                "yes" if done else "",
            )
        now = time.monotonic()
        works = [Text(f"  {task.name}  {_time(now - began)}", style="dim") for task, began in self._running.items()]
        ended = sum(self._ended.values())
        line = f"{ended} of {self._tasks} pieces of work, {_time(now - self._began)}  {self._left()}"
        return Group(table, *works, Text(line))

    def _left(self) -> str:
        """About how long it will take still, from how fast it went so far."""
        ended = sum(self._ended.values())
        if not ended or ended >= self._tasks:
            return ""
        return f"about {_time((time.monotonic() - self._began) * (self._tasks - ended) / ended)} left"


@contextmanager
def watching(console: Console, tasks: int, students: int) -> Iterator[Watch]:
    """Within the block, what the watch is told is shown on the console."""
    watch = Watch(console, tasks, students)
    if not console.is_interactive:
        yield watch
        return
    with Live(console=console, refresh_per_second=2) as live:
        watch.live = live
        yield watch


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

"""Progress of long work. Silent unless somebody shows it: the command line does, and `show_progress` in a notebook."""

from __future__ import annotations

import contextvars
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from xaibench.errors import ConfigError

__all__ = ["end_progress", "progress", "show_progress", "silent_unless", "tell_progress"]

Advance = Callable[..., None]
Clock = Callable[[], float]

_LOG_SECONDS = 20.0  # between two lines about the same work in a log
_NOTEBOOK_SECONDS = 0.5  # between two updates of what a notebook shows


class _Display(Protocol):
    """How progress is shown."""

    def work(self, description: str, total: int) -> tuple[Advance, Callable[[], None]]:
        """Begin a piece of work: what to call for each step (steps, note), and at its end."""

    def stop(self) -> None:
        """Leave what is shown as it stands; more work is shown below it."""


_display: contextvars.ContextVar[_Display | None] = contextvars.ContextVar("xaibench_progress", default=None)


@contextmanager
def show_progress(console: Console | None = None, *, clock: Clock = time.monotonic) -> Iterator[None]:
    """Within the block, every `progress` of the library is shown on stderr; without any, nothing.

    In a terminal as bars, in a notebook as lines that are brought up to date, in a file or a pipe as a line when a
    piece of work begins, at most every 20 seconds while it goes on, and when it ends.

    Of several processes that train together, the first alone shows it.
    """
    if not (console is None or isinstance(console, Console)):
        raise ConfigError(f"console must be a Console or None, got {console!r:.60}")
    if int(os.environ.get("LOCAL_RANK", "0")):
        yield
        return
    token = _display.set(_display_on(console or Console(stderr=True, emoji=False), clock))
    try:
        yield
    finally:
        end_progress()
        _display.reset(token)


def _display_on(console: Console, clock: Clock) -> _Display:
    if console.is_jupyter:
        return _Notebook(clock)
    return _Bars(console) if console.is_interactive else _Log(console, clock)


@contextmanager
def silent_unless(shown: bool) -> Iterator[None]:
    """Within the block nothing is shown, unless `shown`: of several processes, one shows progress."""
    token = _display.set(_display.get() if shown else None)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def tell_progress(listener: Callable[[float, str], None]) -> Iterator[None]:
    """Within the block, every `progress` calls `listener(share, text)` instead; what that raises ends the work."""
    token = _display.set(_Told(listener))
    try:
        yield
    finally:
        _display.reset(token)


def end_progress() -> None:
    """Leave what is shown as it stands, so that what is printed next comes below it (and stdout is stdout again)."""
    display = _display.get()
    if display is not None:
        display.stop()


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Yield ``advance(steps=1, note="")`` for a piece of work of `total` steps."""
    display = _display.get()
    if display is None:
        yield lambda steps=1, note="": None
        return
    advance, end = display.work(description, total)
    try:
        yield advance
    finally:
        end()


@dataclass(frozen=True)
class _Told:
    """Nothing is shown: somebody else is told."""

    listener: Callable[[float, str], None]

    def work(self, description: str, total: int) -> tuple[Advance, Callable[[], None]]:
        done = 0

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done
            done += steps
            self.listener(min(1.0, done / max(1, total)), f"{description} {note}".strip())

        self.listener(0.0, description)
        return advance, lambda: None

    def stop(self) -> None:
        pass


class _Bars:
    """Bars that move, in a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description:<32}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._bars = Progress(*columns, console=console, refresh_per_second=4)

    def work(self, description: str, total: int) -> tuple[Advance, Callable[[], None]]:
        self._bars.start()
        task = self._bars.add_task(description, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            self._bars.update(task, advance=steps, note=note)

        return advance, lambda: None

    def stop(self) -> None:
        if self._bars.live.is_started:
            self._bars.stop()


@dataclass
class _Work:
    """How far a piece of work is."""

    description: str
    total: int
    clock: Clock
    done: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        self.began = self.now = self.clock()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done, self.note, self.now = self.done + steps, note, self.clock()

    def __str__(self) -> str:
        gone = self.now - self.began
        parts = [f"{self.description:<32} {self.done}/{self.total}", str(timedelta(seconds=round(gone)))]
        if 0 < self.done < self.total:
            left = gone * (self.total - self.done) / self.done
            parts.append(f"{timedelta(seconds=round(left))} left")
        return "  ".join([*parts, self.note] if self.note else parts)


class _Log:
    """A line now and then, in a file or a pipe."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock

    def work(self, description: str, total: int) -> tuple[Advance, Callable[[], None]]:
        work = _Work(description, total, self._clock)
        written = work.now
        self._write(work)

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal written
            work.advance(steps, note)
            if work.now - written >= _LOG_SECONDS and work.done < total:
                written = work.now
                self._write(work)

        return advance, lambda: self._write(work)

    def stop(self) -> None:
        """Nothing: lines are written at once."""

    def _write(self, work: _Work) -> None:
        self._console.print(str(work), markup=False, highlight=False, soft_wrap=True)


class _Notebook:
    """Lines below the cell that are brought up to date, one for each piece of work; a saved notebook keeps them."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._shown = clock, float("-inf")
        self._works: list[_Work] = []
        self._handle: Any = None

    def work(self, description: str, total: int) -> tuple[Advance, Callable[[], None]]:
        work = _Work(description, total, self._clock)
        self._works.append(work)
        self._show()

        def advance(steps: int = 1, note: str = "") -> None:
            work.advance(steps, note)
            if work.now - self._shown >= _NOTEBOOK_SECONDS:
                self._show()

        return advance, self._show

    def stop(self) -> None:
        self._works, self._handle = [], None

    def _show(self) -> None:
        from IPython.display import display

        self._shown = self._clock()
        text = {"text/plain": "\n".join(map(str, self._works))}
        if self._handle is None:
            self._handle = display(text, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(text, raw=True)

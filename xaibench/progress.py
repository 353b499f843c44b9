"""Progress of long work. Silent unless somebody shows it: the command line and notebooks do, on stderr."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["end_progress", "progress", "show_progress", "silent_unless"]

_display: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("xaibench_progress", default=None)


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[None]:
    """Within the block, every `progress` of the library draws a bar on stderr; without any, nothing.

    Of several processes that train together, the first alone draws.
    """
    if int(os.environ.get("LOCAL_RANK", "0")):
        yield
        return
    columns = (
        TextColumn("{task.description:<32}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    display = Progress(*columns, console=console or Console(stderr=True), refresh_per_second=4)
    token = _display.set(display)
    try:
        yield
    finally:
        end_progress()
        _display.reset(token)


@contextmanager
def silent_unless(shown: bool) -> Iterator[None]:
    """Within the block nothing is drawn, unless `shown`: of several processes, one shows progress."""
    token = _display.set(_display.get() if shown else None)
    try:
        yield
    finally:
        _display.reset(token)


def end_progress() -> None:
    """Leave the bars as they stand, so that what is printed next comes below them (and stdout is stdout again)."""
    display = _display.get()
    if display is not None and display.live.is_started:
        display.stop()


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Yield ``advance(steps=1, note="")`` for a piece of work of `total` steps."""
    display = _display.get()
    if display is None:
        yield lambda steps=1, note="": None
        return
    display.start()
    task = display.add_task(description, total=total, note="")

    def advance(steps: int = 1, note: str = "") -> None:
        display.update(task, advance=steps, note=note)

    yield advance

"""Work beside the notebook: one piece at a time, the latest request wins, results come back to the kernel's thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from xaibench.errors import XaibenchError

__all__ = ["Turn", "Worker", "sentence"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Superseded(BaseException):
    """Raised within a piece of work that nobody waits for any more. No Exception: what handles errors lets it pass."""


class Turn:
    """One piece of work, as it sees itself: it reports how far it is, and ends when it was cancelled."""

    def __init__(
        self,
        tell: Callable[[float, str], None],
        deliver: Callable[[Turn, Callable[[], Any]], None] = lambda turn, call: call(),
    ) -> None:
        self._tell, self._deliver, self._cancelled = tell, deliver, threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this work any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the work at its next `report`."""
        self._cancelled.set()

    def report(self, share: float, note: str = "") -> None:
        """Say how much is done (0 to 1). Ends the work, by an exception, where it was cancelled."""
        if self.cancelled:
            raise _Superseded
        self.show(lambda: self._tell(share, note))

    def show(self, call: Callable[[], Any]) -> None:
        """Have something called in the thread that made the worker, unless this work is cancelled before that."""
        self._deliver(self, call)


class Worker:
    """Runs work in a thread of its own, where there is an event loop to come back to, as in a notebook; else at once.

    A new piece of work cancels the one before it, which is never shown then. Works never overlap: models may be shared
    by them. `done`, `failed` and `progress` are called in the thread that made the worker.

    progress  (share, note), while something works
    """

    def __init__(self, progress: Callable[[float, str], None] = lambda share, note: None) -> None:
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._progress = progress
        self._one_at_a_time = threading.RLock()  # `done` may ask for more at once
        self._turn: Turn | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return self._turn is not None

    def run(self, work: Callable[[Turn], T], done: Callable[[T], Any], failed: Callable[[BaseException], Any]) -> None:
        """Do `work` in place of what is being done; hand its result to `done`, or what it raised to `failed`.

        What ends the program is raised again after that: KeyboardInterrupt, where there is no event loop.
        """
        if self._turn is not None:
            self._turn.cancel()
        turn = self._turn = Turn(self._progress, self._deliver)
        if self._loop is None:
            self._do(turn, work, done, failed)
        else:
            threading.Thread(target=self._do, args=(turn, work, done, failed), daemon=True).start()

    def cancel(self) -> None:
        """End what is being done; neither `done` nor `failed` is called."""
        if self._turn is not None:
            self._turn.cancel()
            self._finish(self._turn)

    async def settled(self) -> None:
        """Return when nothing is being done any more: `await explorer.settled()` in a notebook's cell."""
        if self.busy:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def _do(self, turn: Turn, work: Callable[[Turn], T], done: Callable[[T], Any], failed: Callable[..., Any]) -> None:
        with self._one_at_a_time:
            try:
                turn.report(0.0)
                result = work(turn)
            except _Superseded:
                return
            except BaseException as error:  # whatever it is, whoever looks at the panel must be told
                raised = error
                self._deliver(turn, lambda: self._finish(turn, lambda: failed(raised)))
                if not isinstance(error, Exception):
                    raise
            else:
                self._deliver(turn, lambda: self._finish(turn, lambda: done(result)))

    def _deliver(self, turn: Turn, call: Callable[[], Any]) -> None:
        def unless_cancelled() -> None:
            if not turn.cancelled:
                call()

        if self._loop is None:
            unless_cancelled()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(unless_cancelled)

    def _finish(self, turn: Turn, last: Callable[[], Any] = lambda: None) -> None:
        if turn is not self._turn:
            return
        self._turn = None
        try:
            last()  # may ask for more work
        finally:
            if self._turn is None:
                waiting, self._waiting = self._waiting, []
                for future in waiting:
                    if not future.done():
                        future.set_result(None)


def sentence(error: BaseException) -> str:
    """What went wrong, for a panel. An error of ours and one of a file speak for themselves; of any other the log gets
    the traceback."""
    if isinstance(error, XaibenchError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    _log.error("a panel could not do what was asked", exc_info=error)
    return f"{type(error).__name__}: {error}"

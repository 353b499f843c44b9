"""What a training tells others after each epoch, and how they end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

__all__ = ["Cancelled", "EpochState", "OnEpoch"]


class Cancelled(Exception):
    """Raised by a training that was cancelled; the same call with the same `folder` goes on where it ended."""


@dataclass(frozen=True, eq=False)
class EpochState:
    """A training after an epoch, as `on_epoch` gets it.

    epoch    that has ended, counted from 0
    epochs   of the whole training
    row      of the history: loss, its terms, validation accuracy and agreement, seconds
    rows     of the history so far, with those of an earlier, interrupted call; `row` is the last
    seconds  of the training so far, without those of an earlier, interrupted call
    student  () -> a copy of the student as it is at that moment, on the CPU, in evaluation mode
    learned  () -> the same of the method's criterion, with what it learns beside the student (rotations, regressors)
    """

    epoch: int
    epochs: int
    row: Mapping[str, float]
    rows: Sequence[Mapping[str, float]]
    seconds: float
    student: Callable[[], nn.Module]
    learned: Callable[[], nn.Module]
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    def cancel(self) -> None:
        """End the training when `on_epoch` returns: it raises `Cancelled`."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()


OnEpoch = Callable[[EpochState], object]
"""Called after each epoch, when its state is on the disk, in the thread that trains. May raise `Cancelled`, too."""

"""The teacher's side of a training step: computed once and kept where the pixels repeat, else computed live."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaibench.distillation.criterion import Criterion
from xaibench.errors import ConfigError
from xaibench.models.layer_outputs import Outputs, forward_with_layers
from xaibench.models.memory_format import MemoryFormat
from xaibench.progress import progress

__all__ = ["CachedTeacher", "LiveTeacher", "Remember", "compute_afresh", "recall", "teacher_source", "warn_of_chance"]

_log = logging.getLogger(__name__)

Remember = Callable[[str, Callable[[], Tensor]], Tensor]
"""(what, compute) -> the tensor that was kept under the text `what`, else what `compute()` gives, kept from now on."""


def compute_afresh(what: str, compute: Callable[[], Tensor]) -> Tensor:
    """The `Remember` that keeps nothing."""
    return compute()


def recall(remember: Remember, what: str, shape: tuple[int, int], compute: Callable[[], Tensor]) -> Tensor:
    """The logits of `shape` (N, K) that `remember` gives. Raises ConfigError for anything else."""
    logits = remember(what, compute)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
        given = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"{logits!r:.40}"
        raise ConfigError(
            f"remember gave {given} where {shape[0]} x {shape[1]} logits were asked for: give what was kept "
            "under this text, or what compute() returns"
        )
    return logits


@dataclass(frozen=True, eq=False)
class LiveTeacher:
    """Runs the teacher on every batch, in `format`."""

    teacher: nn.Module
    criterion: Criterion
    autocast: Callable[[], AbstractContextManager[object]]
    format: MemoryFormat

    def __call__(self, x: Tensor, indices: Tensor, view: int) -> dict[str, Tensor]:
        """The criterion's teacher summary for inputs x (B, C, H, W): name -> (B, ...)."""
        return self.summarise(self.outputs(x))

    def outputs(self, x: Tensor) -> Outputs:
        """The teacher's logits and the layers that the criterion reads."""
        with torch.no_grad(), self.autocast():
            return forward_with_layers(self.teacher, self.format(x), self.criterion.teacher_layers)

    def summarise(self, outputs: Outputs) -> dict[str, Tensor]:
        """The criterion's summary of them."""
        with torch.no_grad(), self.autocast():
            return self.criterion.summarise(outputs)


class CachedTeacher:
    """Holds the summaries of `n` images in each of their views. Maps are kept channels-last, as the student's are."""

    def __init__(self, n: int, views: int, like: Mapping[str, Tensor], device: torch.device | str) -> None:
        self.n = n
        self._store = {
            name: torch.empty((views * n, *_rows(value).shape[1:]), dtype=value.dtype, device=device)
            for name, value in like.items()
        }

    def put(self, summary: Mapping[str, Tensor], indices: Tensor, view: int) -> None:
        """Keep the summary of the images at `indices` in view number `view`."""
        for name, value in summary.items():
            store = self._store[name]
            store[(view * self.n + indices).to(store.device)] = _rows(value).to(store.device)

    def __call__(self, x: Tensor, indices: Tensor, view: int) -> dict[str, Tensor]:
        """Look up the images at `indices` in view number `view`; `x` only says on which device they are wanted."""
        summary = {}
        for name, store in self._store.items():
            rows = store.index_select(0, (view * self.n + indices).to(store.device)).to(x.device)
            summary[name] = rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
        return summary

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in self._store.values())


def teacher_source(
    live: LiveTeacher,
    inputs: Callable[[Tensor, int], Tensor],
    n: int,
    views: int,
    *,
    budget: int,
    batch_size: int = 128,
    remember: Callable[[Callable[[], Tensor]], Tensor] = lambda compute: compute(),
) -> LiveTeacher | CachedTeacher:
    """Fill a cache for `n` images in `views` views, or return `live` where it would exceed `budget` bytes.

    inputs    (indices, view) -> the model input (B, C, H, W) of these images in that view
    views     0: the pixels never repeat, so the live teacher it is
    remember  gives the teacher's logits (views * n, K), view by view, as another student of the same views got them, or
              has them computed. Not asked where the criterion reads layers: its summaries are its own, and large
    """
    if views == 0:
        return live
    few = torch.arange(min(n, 2))
    summary = live(inputs(few, 0), few, 0)
    need = views * n * sum(v[0].nbytes for v in summary.values())
    if need > budget:
        _log.info("teacher outputs need %.1f GB, over the budget of %.1f GB: live teacher", need / 1e9, budget / 1e9)
        return live
    device = next(iter(summary.values())).device
    store = device
    if device.type == "cuda" and need > torch.cuda.mem_get_info(device)[0] // 2:
        store = torch.device("cpu")
    chunks = [(view, indices) for view in range(views) for indices in torch.arange(n).split(batch_size)]

    def outputs() -> Iterator[Outputs]:
        with progress("teacher outputs", views * n) as advance:
            for view, indices in chunks:
                yield live.outputs(inputs(indices, view))
                advance(len(indices))

    def remembered() -> Iterator[Outputs]:
        logits = remember(lambda: torch.cat([one.logits for one in outputs()]))
        return (Outputs(part.to(device), {}) for part in logits.split([len(indices) for _, indices in chunks]))

    cache = CachedTeacher(n, views, summary, store)
    for (view, indices), answer in zip(chunks, outputs() if live.criterion.teacher_layers else remembered()):
        cache.put(live.summarise(answer), indices, view)
    return cache


def warn_of_chance(logits: Tensor, labels: Tensor) -> None:
    """Warn in the log of a teacher whose accuracy could be that of guessing.

    logits (N, K), labels (N,) of images that it was not trained on. Guessing is right with the share of the largest
    class; the warning comes where so many right answers have a probability above 1% (binomial).
    """
    from scipy.stats import binom  # slow to import

    n, right = len(labels), int((logits.argmax(1) == labels).sum())
    chance = float(torch.bincount(labels).max()) / n
    if binom.sf(right - 1, n, chance) > 0.01 > binom.sf(n - 1, n, chance):
        _log.warning(
            "the teacher is right on %d of %d validation images, near chance (%.3f): is it trained, and do its classes "
            "and preprocessing fit?",
            right,
            n,
            chance,
        )


def _rows(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.ndim == 4 else value

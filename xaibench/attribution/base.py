"""What every explainer offers, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.models.logits import forward_logits

__all__ = ["Explainer", "Maps", "NothingMeasured", "PlainPasses", "logits_of", "reason"]


@dataclass(frozen=True, eq=False)
class Maps:
    """Relevance of one batch.

    relevance   (N, C, H, W), on the model's device
    references  what the relevance is measured against, in normalised input space: (1, ...) for all images or (N, ...)
    measured    name -> (N,) float64 on the CPU: what the method can tell about each map, see `Attribution.measured`
    """

    relevance: Tensor
    references: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Explainer(Protocol):
    """An attribution method: a frozen dataclass of options with these members and one line in EXPLAINERS.

    `model` is always a private copy in evaluation mode without gradients to its parameters, `x` (N, C, H, W)
    its normalised input on its device.
    """

    name: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]]

    @property
    def kept(self) -> int:
        """How many tensors of an image's size `attribute` would like to keep of each image from pass to pass."""

    def written(self, model: nn.Module, x: Tensor, preprocessing: Preprocessing, plain: int) -> int:
        """The bytes that one of its forward passes writes for an image, where the model's own writes `plain`."""

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Raise ExplanationError where the method is not defined for these inputs."""

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """The checks of (model, method), made once on a few images before anything is explained."""

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """Explain one batch of at most `room.points` images.

        room  what may be held at once. The maps depend neither on it nor on which images share a batch: what is random
              comes from a generator of its own, alike for all images.
        """

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """The checks of all maps together and the images to flag (indices), from what `attribute` measured (N,)."""

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """What those numbers say about one map, or in the median about many; "" where nothing is measured."""


class PlainPasses:
    """What explainers share whose passes are the network's own and that keep nothing from pass to pass."""

    kept: ClassVar[int] = 0

    def written(self, model: nn.Module, x: Tensor, preprocessing: Preprocessing, plain: int) -> int:
        """What the model's own pass writes."""
        return plain


class NothingMeasured(PlainPasses):
    """What explainers share that measure nothing of their maps either."""

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """Nothing beyond what `validate` found."""
        return (), ()

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """Nothing."""
        return ""


def reason(error: BaseException) -> str:
    """The first line of an error's message, short enough to be quoted in ours."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= 120 else f"{line[:117]}..."


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (N, K) of x without gradients."""
    return forward_logits(model, x)

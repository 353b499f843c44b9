"""What a distillation method asks of a trainer: the teacher's summary (which can be cached) and losses a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.errors import ConfigError
from xaibench.models.layer_outputs import Outputs, evaluating, forward_with_layers
from xaibench.models.layer_pairs import LayerPair
from xaibench.models.local_logits import SpatialHead, spatial_head
from xaibench.models.maps import Shape
from xaibench.models.pair import ModelPair
from xaibench.subspace.moments import LayerMoments
from xaibench.validation import require

__all__ = ["Batch", "Criterion", "Setting", "TrainingState"]


class Batch(NamedTuple):
    """The samples of one step: their positions in the training set (B,), their labels (B,), and the epoch from 0."""

    indices: Tensor
    labels: Tensor
    epoch: int


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method may look at when it builds its criterion.

    pair        teacher, student and their layer pairs
    sample      a few inputs (B, C, H, W), to learn shapes from
    measure     computes the teacher's moments on the unaugmented training images; called at most once
    labels      of all training images, (n,)
    batch_size  of training; the last batch of an epoch may be smaller
    epochs      of training
    seed        seeds whatever the method draws (rotations, projections)
    """

    pair: ModelPair
    sample: Tensor
    measure: Callable[[], Mapping[str, LayerMoments]]
    labels: Tensor
    batch_size: int = 64
    epochs: int = 100
    seed: int = 0

    @cached_property
    def moments(self) -> Mapping[str, LayerMoments]:
        moments = self.measure()
        require(moments, Mapping[str, LayerMoments], "what measure gives")
        for layer in self.pair.teacher_layers:
            if layer not in moments:
                raise ConfigError(f"measure gives no moments of '{layer}': let it give those of all teacher layers")
        return moments

    @cached_property
    def student_shapes(self) -> dict[str, Shape]:
        """Student layer -> (k, H, W)."""
        return _shapes(self.pair.student, self.sample, self.pair.student_layers)

    @cached_property
    def teacher_shapes(self) -> dict[str, Shape]:
        """Teacher layer -> (d, H, W)."""
        return _shapes(self.pair.teacher, self.sample, self.pair.teacher_layers)

    @cached_property
    def heads(self) -> tuple[SpatialHead, SpatialHead]:
        """The pooled heads of teacher and student. Raises ModelError where a model has none."""
        return spatial_head(self.pair.teacher, self.sample), spatial_head(self.pair.student, self.sample)

    def layer_pairs(self, chosen: tuple[str, ...] = ()) -> tuple[LayerPair, ...]:
        """The pairs whose student layer is in `chosen`; () is all, ("last",) the last one."""
        pairs = self.pair.layers
        if not pairs:
            raise ConfigError("this method needs at least one layer pair: give layers = ['layer1:layer1', ...]")
        if not chosen:
            return pairs
        if chosen == ("last",):
            return pairs[-1:]
        known = {p.student: p for p in pairs}
        for name in chosen:
            if name not in known:
                raise ConfigError(f"'{name}' is no student layer of a pair: choose from {', '.join(known)}, or last")
        return tuple(known[name] for name in chosen)


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What a criterion may look at before an epoch.

    student     as it is now
    inputs      (indices, view) -> the student's input (B, C, H, W)
    teacher     (input, indices, view) -> the teacher's summary; {} where the criterion needs none
    labels      of all training images, (n,)
    view        the version of the images that this epoch shows
    validation  batches of (input, labels), unaugmented
    """

    student: nn.Module
    inputs: Callable[[Tensor, int], Tensor]
    teacher: Callable[[Tensor, Tensor, int], Mapping[str, Tensor]]
    labels: Tensor
    view: int
    validation: Callable[[], Iterable[tuple[Tensor, Tensor]]]


class Criterion(nn.Module):
    """A method made ready for one pair. Learned parts are its parameters, trained with the student.

    weights         term name -> factor in the total loss
    teacher_layers  teacher layers that `summarise` reads; () for logits alone
    student_layers  student layers that `forward` reads
    needs_teacher   False: `summarise` is never called and `forward` gets {}
    coupling        why a sample's loss depends on the others of its batch; "" where it does not
    """

    teacher_layers: tuple[str, ...] = ()
    student_layers: tuple[str, ...] = ()
    needs_teacher = True
    coupling = ""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        negative = [f"{name}={value}" for name, value in weights.items() if not value >= 0]
        if negative:
            raise ConfigError(f"loss weights must be at least 0, got {', '.join(negative)}")
        self.weights = {name: value for name, value in weights.items() if value > 0}
        if not self.weights:
            raise ConfigError(f"all loss weights are 0 ({', '.join(weights)}): nothing would be learned")

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        """The teacher's outputs reduced to what the losses need: name -> (B, ...).

        A function of the teacher's outputs alone, nothing learned: that is what makes it fit for a cache.
        """
        return {"logits": teacher.logits.float()}

    def observe(self, student: Outputs) -> Outputs:
        """Add quantities to the student's outputs that are computed with the student's own weights.

        Local logits, for instance, apply the student's classifier to each location. Called in the student's forward
        pass, before `forward`, which receives what it returns. The default adds nothing.
        """
        return student

    def start_epoch(self, epoch: int, state: TrainingState) -> None:
        """Called before each epoch."""

    def image_weights(self) -> dict[str, Tensor] | None:
        """ "weight" and "influence" of all training images, each (n,); None where all count alike."""
        return None

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Each term of `weights` as one loss a sample: name -> (B,). Terms of weight 0 need not be computed."""
        raise TypeError(f"{type(self).__name__} defines no terms")

    def forward(
        self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss a sample (B,), and the unweighted terms."""
        terms = self.terms(student, teacher, batch)
        total = torch.stack([weight * terms[name].float() for name, weight in self.weights.items()]).sum(0)
        return total, terms


def _shapes(model: nn.Module, sample: Tensor, layers: tuple[str, ...]) -> dict[str, Shape]:
    with evaluating(model), torch.no_grad():
        outputs = forward_with_layers(model, sample, layers)
    return {name: (value.shape[1], value.shape[2], value.shape[3]) for name, value in outputs.layers.items()}

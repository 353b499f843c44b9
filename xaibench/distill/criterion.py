"""What a distillation method asks of a trainer: the teacher's summary (which can be cached) and losses a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from xaibench.errors import ConfigError
from xaibench.models.pair import ModelPair, Outputs, forward_with_layers
from xaibench.subspace.moments import LayerMoments

__all__ = ["Criterion", "Setting"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method may look at when it builds its criterion.

    pair     teacher, student and their layer pairs
    sample   a few inputs (B, C, H, W), to learn shapes from
    measure  computes the teacher's moments on the unaugmented training images; called at most once
    seed     seeds whatever the method draws (rotations, projections)
    """

    pair: ModelPair
    sample: Tensor
    measure: Callable[[], Mapping[str, LayerMoments]]
    seed: int = 0

    @cached_property
    def moments(self) -> Mapping[str, LayerMoments]:
        return self.measure()

    @cached_property
    def student_shapes(self) -> dict[str, tuple[int, ...]]:
        """Student layer -> (k, H, W)."""
        training = self.pair.student.training
        self.pair.student.eval()
        try:
            with torch.no_grad():
                outputs = forward_with_layers(self.pair.student, self.sample, self.pair.student_layers)
        finally:
            self.pair.student.train(training)
        return {name: tuple(value.shape[1:]) for name, value in outputs.layers.items()}


class Criterion(nn.Module):
    """A method made ready for one pair. Learned parts are its parameters, trained with the student.

    weights         term name -> factor in the total loss
    teacher_layers  teacher layers that `summarise` reads; () for logits alone
    student_layers  student layers that `forward` reads
    needs_teacher   False: `summarise` is never called and `forward` gets {}
    """

    teacher_layers: tuple[str, ...] = ()
    student_layers: tuple[str, ...] = ()
    needs_teacher = True

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

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], labels: Tensor, epoch: int) -> dict[str, Tensor]:
        """Each term of `weights` as one loss a sample: name -> (B,). Terms of weight 0 need not be computed."""
        raise TypeError(f"{type(self).__name__} defines no terms")

    def forward(
        self, student: Outputs, teacher: Mapping[str, Tensor], labels: Tensor, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss a sample (B,), and the unweighted terms."""
        terms = self.terms(student, teacher, labels, epoch)
        total = torch.stack([weight * terms[name].float() for name, weight in self.weights.items()]).sum(0)
        return total, terms

"""What a distillation is compared with: training without a teacher, and teachers that know nothing.

Source: Mason-Williams et al. 2025, arXiv 2510.12615.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting, TrainingState
from xaibench.distillation.methods.base import Logits, Method, check_share, step_generator
from xaibench.distillation.methods.influence import InfluenceWeighted
from xaibench.distillation.methods.wrapped import Wrapped
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.copies import untrained
from xaibench.models.layer_outputs import Outputs
from xaibench.models.pair import ModelPair

__all__ = ["DISDO", "NOISES", "SIDDO", "LabelSmoothing", "RandomControl", "StudentOnly", "UntrainedTeacher"]

NOISES = ("uniform", "matched")
_OTHER_ORDER = 7919
_OTHER_INITIALISATION = 104729


@dataclass(frozen=True)
class StudentOnly(Method):
    """No teacher: cross-entropy with the labels. The control that every distillation must beat."""

    name: ClassVar[str] = "student-only"

    def build(self, setting: Setting) -> Criterion:
        return Logits({"ce": 1.0})


@dataclass(frozen=True)
class LabelSmoothing(Method):
    """No teacher: cross-entropy with (1 - epsilon) onehot(y) + epsilon / K."""

    name: ClassVar[str] = "label-smoothing"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(epsilon=self.epsilon)

    def build(self, setting: Setting) -> Criterion:
        return Logits({"ce": 1.0}, smoothing=self.epsilon)


@dataclass(frozen=True)
class SIDDO(StudentOnly):
    """Same initialisation, different data order: `StudentOnly` with another seed for order and augmentation."""

    name: ClassVar[str] = "siddo"

    def data_seed(self, seed: int) -> int:
        return seed + _OTHER_ORDER


@dataclass(frozen=True)
class DISDO(StudentOnly):
    """Different initialisation, same data order: `StudentOnly` from another initialisation than the pair's student."""

    name: ClassVar[str] = "disdo"

    def prepare(self, pair: ModelPair, seed: int) -> ModelPair:
        return pair.with_student(untrained(pair.student, seed + _OTHER_INITIALISATION))


@dataclass(frozen=True)
class UntrainedTeacher(Wrapped):
    """The method with a teacher that was initialised anew and never trained."""

    name: ClassVar[str] = "untrained-teacher"

    def prepare(self, pair: ModelPair, seed: int) -> ModelPair:
        pair = self.method.prepare(pair, seed)
        teacher = untrained(pair.teacher, seed + _OTHER_INITIALISATION).eval().requires_grad_(False)
        return dataclasses.replace(pair, teacher=teacher)

    def build(self, setting: Setting) -> Criterion:
        return self.method.build(setting)


@dataclass(frozen=True)
class RandomControl(Wrapped):
    """Random control distillation: the same loss, the teacher's outputs replaced by noise that is new at each step.

    noise  "uniform": in [0, 1), whatever the teacher gives; "matched": normal, with the mean and spread that each
           output has over the batch. What is replaced is all that the loss reads of the teacher (logits, maps, ...)
    """

    name: ClassVar[str] = "random-control"
    noise: str = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise not in NOISES:
            raise unknown_name("noise", self.noise, NOISES)
        inner: Method = self.method
        while isinstance(inner, Wrapped):
            if isinstance(inner, InfluenceWeighted):
                raise ConfigError(
                    "random-control[influence[...]] would weight by the true teacher's influence: write "
                    "influence[random-control[...]]"
                )
            inner = inner.method

    def build(self, setting: Setting) -> Criterion:
        return _RandomTeacher(self.method.build(setting), self.noise, setting.seed)


class _RandomTeacher(Criterion):
    def __init__(self, inner: Criterion, noise: str, seed: int) -> None:
        super().__init__(inner.weights)
        self.inner, self.noise, self.seed = inner, noise, seed
        self.teacher_layers, self.student_layers = inner.teacher_layers, inner.student_layers
        self.needs_teacher, self.coupling = inner.needs_teacher, inner.coupling

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return self.inner.summarise(teacher)

    def observe(self, student: Outputs) -> Outputs:
        return self.inner.observe(student)

    def start_epoch(self, epoch: int, state: TrainingState) -> None:
        self.inner.start_epoch(epoch, state)

    def image_weights(self) -> dict[str, Tensor] | None:
        return self.inner.image_weights()

    def forward(
        self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        generator = step_generator(self.seed, batch)
        noise = {name: self._draw(value, generator) for name, value in teacher.items()}
        result: tuple[Tensor, dict[str, Tensor]] = self.inner(student, noise, batch)
        return result

    def _draw(self, value: Tensor, generator: torch.Generator) -> Tensor:
        if self.noise == "uniform":
            return torch.rand(value.shape, generator=generator).to(value)
        spread, mean = torch.std_mean(value.float(), dim=0, correction=0)
        return (mean + spread * torch.randn(value.shape, generator=generator).to(value.device)).to(value.dtype)

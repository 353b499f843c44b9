"""What methods that compare paired layers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.layer import LayerLoss
from xaibench.distillation.methods.base import Logits, Method, check_positive, check_weights, seeded
from xaibench.models.layer_outputs import Outputs
from xaibench.models.layer_pairs import LayerPair
from xaibench.models.maps import Shape

__all__ = ["Feature", "LayerByLayer", "Layered"]


class Layered(Logits):
    """`kd_weight` KD + `task_weight` CE + `layer_weight` times one `LayerLoss` for each pair of layers.

    make      builds the loss of a pair; drawn after seeding
    coupling  see `Criterion`
    """

    def __init__(
        self,
        setting: Setting,
        pairs: Sequence[LayerPair],
        make: Callable[[LayerPair], LayerLoss],
        *,
        layer_weight: float,
        kd_weight: float,
        task_weight: float,
        temperature: float,
        coupling: str = "",
    ) -> None:
        weights = {"kd": kd_weight, "ce": task_weight} | {str(pair): layer_weight for pair in pairs}
        super().__init__(weights, temperature)
        self.coupling = coupling
        self.pairs = tuple(pairs) if layer_weight > 0 else ()
        self.teacher_layers = tuple(p.teacher for p in self.pairs)
        self.student_layers = tuple(p.student for p in self.pairs)
        with seeded(setting.seed):
            self.losses = nn.ModuleList(make(pair) for pair in self.pairs)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        summary = super().summarise(teacher)
        for pair, loss in zip(self.pairs, self.losses):
            summary[str(pair)] = loss.target(teacher.layers[pair.teacher])  # type: ignore[operator]
        return summary

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        for pair, loss in zip(self.pairs, self.losses):
            terms[str(pair)] = loss(student.layers[pair.student], teacher[str(pair)])
        return terms


@dataclass(frozen=True)
class Feature(Method):
    """A term of its own, times `layer_weight`, beside kd_weight KD(T) + task_weight CE.

    The weights 1 and 0 of the latter are those of SubDistill's experiments: methods differ in their own term alone.
    """

    layer_weight: float = 1.0
    kd_weight: float = 1.0
    task_weight: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_weights(layer_weight=self.layer_weight, kd_weight=self.kd_weight, task_weight=self.task_weight)


@dataclass(frozen=True)
class LayerByLayer(Feature):
    """A `LayerLoss` of each pair. layers: student layers of the pairs to use; () all, ("last",) the last."""

    layers: tuple[str, ...] = ()
    coupling: ClassVar[str] = ""

    @abstractmethod
    def loss(self, teacher: Shape, student: Shape) -> LayerLoss:
        """The loss of a pair of layers of these shapes."""

    def build(self, setting: Setting) -> Criterion:
        return Layered(
            setting,
            setting.layer_pairs(self.layers) if self.layer_weight > 0 else (),
            lambda pair: self.loss(setting.teacher_shapes[pair.teacher], setting.student_shapes[pair.student]),
            layer_weight=self.layer_weight,
            kd_weight=self.kd_weight,
            task_weight=self.task_weight,
            temperature=self.temperature,
            coupling=self.coupling,
        )

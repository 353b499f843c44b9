"""Methods made of methods: sums, and wrappers around one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from xaibench.distill.criterion import Batch, Criterion, Setting, TrainingState
from xaibench.distill.methods.base import Method
from xaibench.distill.methods.logit import KD
from xaibench.errors import ConfigError
from xaibench.models.pair import ModelPair, Outputs

__all__ = ["Combined", "Wrapped"]


@dataclass(frozen=True)
class Combined(Method):
    """The sum of several methods' losses, with the weights in their own options: `KD() + SubDistill(kd_weight=0)`."""

    name: ClassVar[str] = "combined"
    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        if len(self.methods) < 2:
            raise ConfigError(f"a combination needs at least two methods, got {len(self.methods)}")
        for method in self.methods:
            for hook in ("prepare", "data_seed"):
                if getattr(type(method), hook) is not getattr(Method, hook):
                    raise ConfigError(
                        f"{method.name} changes the models or the data of a whole training and cannot be one term of "
                        "a sum: wrap the sum in it, or use it alone"
                    )

    def build(self, setting: Setting) -> Criterion:
        counts = Counter(method.name for method in self.methods)
        seen: Counter[str] = Counter()
        criteria = {}
        for method in self.methods:
            seen[method.name] += 1
            label = f"{method.name}{seen[method.name]}" if counts[method.name] > 1 else method.name
            criteria[label] = method.build(setting)
        return _Sum(criteria)


@dataclass(frozen=True)
class Wrapped(Method):
    """A method that changes how another one is trained, written NAME[METHOD]."""

    name: ClassVar[str] = "wrapped"
    method: Method = field(default_factory=KD)

    def prepare(self, pair: ModelPair, seed: int) -> ModelPair:
        return self.method.prepare(pair, seed)

    def data_seed(self, seed: int) -> int:
        return self.method.data_seed(seed)


class _Sum(Criterion):
    """Terms and teacher's summaries carry their criterion's label: "kd.ce", "subdistill.layer1:layer1"."""

    def __init__(self, criteria: Mapping[str, Criterion]) -> None:
        super().__init__({f"{label}.{term}": w for label, c in criteria.items() for term, w in c.weights.items()})
        self.criteria = nn.ModuleList(criteria.values())
        self.labels = tuple(criteria)
        self.teacher_layers = tuple(dict.fromkeys(name for c in criteria.values() for name in c.teacher_layers))
        self.student_layers = tuple(dict.fromkeys(name for c in criteria.values() for name in c.student_layers))
        self.needs_teacher = any(c.needs_teacher for c in criteria.values())
        self.coupling = next((c.coupling for c in criteria.values() if c.coupling), "")

    def observe(self, student: Outputs) -> Outputs:
        layers = dict(student.layers)
        for label, criterion in zip(self.labels, self.criteria):
            seen = criterion.observe(student).layers  # type: ignore[operator]
            layers |= {f"{label}.{name}": value for name, value in seen.items() if name not in student.layers}
        return Outputs(student.logits, layers)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        summary = super().summarise(teacher)
        for label, criterion in zip(self.labels, self.criteria):
            if criterion.needs_teacher:
                parts = criterion.summarise(teacher)  # type: ignore[operator]
                summary |= {f"{label}.{name}": value for name, value in parts.items() if name != "logits"}
        return summary

    def start_epoch(self, epoch: int, state: TrainingState) -> None:
        for criterion in self.criteria:
            criterion.start_epoch(epoch, state)  # type: ignore[operator]

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for label, criterion in zip(self.labels, self.criteria):
            layers, summary = _own(student.layers, label), _own(teacher, label)
            parts = criterion.terms(Outputs(student.logits, layers), summary, batch)  # type: ignore[operator]
            terms |= {f"{label}.{name}": value for name, value in parts.items()}
        return terms


def _own(values: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """What belongs to all, and what belongs to `label` under its short name."""
    prefix = f"{label}."
    return dict(values) | {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}

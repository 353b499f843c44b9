"""What a distillation method is, and what several of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.distillation.criterion import Batch, Criterion, Setting, TrainingState
from xaibench.distillation.losses.kd import cross_entropy, kd, standardised
from xaibench.errors import ConfigError
from xaibench.models.layer_outputs import Outputs
from xaibench.models.pair import ModelPair
from xaibench.options import check_types, plain_numbers

__all__ = [
    "BATCH_COUPLING",
    "Combined",
    "Logits",
    "Method",
    "check_not_negative",
    "check_positive",
    "check_share",
    "check_weights",
    "seeded",
    "step_generator",
]

BATCH_COUPLING = "its loss compares the samples of a batch with each other"


class Method(ABC):
    """A way to train a student. `build` makes it ready for a pair; the trainer does the rest."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_types(self)
        plain_numbers(self)

    @abstractmethod
    def build(self, setting: Setting) -> Criterion:
        """Return the criterion for this pair, with freshly seeded learned parts."""

    def prepare(self, pair: ModelPair, seed: int) -> ModelPair:
        """The pair that is trained, where a control replaces one of its models. The given pair is left alone."""
        return pair

    def data_seed(self, seed: int) -> int:
        """The seed of the data's order and augmentation."""
        return seed

    def __add__(self, other: Method) -> Method:
        """Train with the sum of both losses."""
        return Combined(_parts(self) + _parts(other))


@dataclass(frozen=True)
class Combined(Method):
    """The sum of several methods' losses, with the weights in their own options: `KD() + SubDistill(kd_weight=0)`."""

    name: ClassVar[str] = "combined"
    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
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


class Logits(Criterion):
    """Cross-entropy and KD, the terms "ce" and "kd" that most methods add theirs to."""

    def __init__(
        self,
        weights: Mapping[str, float],
        temperature: float = 4.0,
        smoothing: float = 0.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(weights)
        self.temperature = temperature
        self.smoothing = smoothing
        self.standardise = standardise
        self.needs_teacher = any(name != "ce" for name in self.weights)

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        logits = student.logits.float()
        terms = {"ce": cross_entropy(logits, batch.labels, self.smoothing)}
        if "kd" in self.weights:
            terms["kd"] = kd(self.compared(logits), self.compared(teacher["logits"]), self.temperature)
        return terms

    def compared(self, logits: Tensor) -> Tensor:
        """Logits as student and teacher are compared by: standardised, where the method says so."""
        return standardised(logits) if self.standardise else logits


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A block in which PyTorch's global generator (the CPU's) starts from `seed`, and after which it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def step_generator(seed: int, batch: Batch) -> torch.Generator:
    """A generator for what is drawn at one step: the same for the same step, also after an interruption."""
    first = int(batch.indices[0]) if len(batch.indices) else 0
    return torch.Generator().manual_seed(hash((seed, batch.epoch, first)) & 0x7FFFFFFFFFFF)


def check_positive(**values: float) -> None:
    """Raise ConfigError for a value that is not above 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be above 0, got {value}")


def check_not_negative(**values: float) -> None:
    """Raise ConfigError for a value that is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} must be at least 0, got {value}")


def check_share(**values: float) -> None:
    """Raise ConfigError for a value outside 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be between 0 and 1, got {value}")


def check_weights(**values: float) -> None:
    """Raise ConfigError for a weight that is negative or not finite, and where all of them are 0."""
    check_not_negative(**values)
    if not any(values.values()):
        raise ConfigError(f"{', '.join(values)} are all 0: nothing would be learned")


def _parts(method: Method) -> tuple[Method, ...]:
    return getattr(method, "methods", (method,))


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

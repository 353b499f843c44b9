"""The distillation methods, as frozen dataclasses whose repr is their provenance, and the table of their names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.distill.criterion import Criterion, Setting
from xaibench.distill.losses.logits import cross_entropy, kd
from xaibench.distill.losses.subdistill import CENTRINGS, SubspaceHead, subspace_target
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.pair import LayerPair, Outputs
from xaibench.options import format_options, parse_options
from xaibench.subspace.bases import BASES, make_basis

__all__ = ["KD", "METHODS", "Method", "StudentOnly", "SubDistill", "method_name", "parse_method"]


class Method(ABC):
    """A way to train a student. `build` makes it ready for a pair; the trainer does the rest."""

    name: ClassVar[str]

    @abstractmethod
    def build(self, setting: Setting) -> Criterion:
        """Return the criterion for this pair, with freshly seeded learned parts."""


@dataclass(frozen=True)
class StudentOnly(Method):
    """No teacher: cross-entropy with the labels. The control that every distillation must beat."""

    name: ClassVar[str] = "student-only"

    def build(self, setting: Setting) -> Criterion:
        return _CrossEntropy({"ce": 1.0})


@dataclass(frozen=True)
class KD(Method):
    """alpha T^2 KL(teacher || student) + (1 - alpha) CE. Source: Hinton et al. 2015, arXiv 1503.02531."""

    name: ClassVar[str] = "kd"
    alpha: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _above_zero("temperature", self.temperature)
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha must be between 0 and 1, got {self.alpha}")

    def build(self, setting: Setting) -> Criterion:
        return _Logits({"kd": self.alpha, "ce": 1 - self.alpha}, self.temperature)


@dataclass(frozen=True)
class SubDistill(Method):
    """kd_weight KD + layer_weight sum_l L_l + task_weight CE, L_l as in `losses.subdistill.subspace_loss`.

    basis     a name in `subspace.BASES`; the subspace of a pair has the student layer's number of channels
    centring  a name in `losses.subdistill.CENTRINGS`; `peer_bn` is the public code's, `mean` the paper's text
    beta      scales the gradient in the `prcaposdef` basis
    Source: arXiv 2601.05913.
    """

    name: ClassVar[str] = "subdistill"
    layer_weight: float = 100.0
    kd_weight: float = 1.0
    task_weight: float = 0.0
    temperature: float = 4.0
    basis: str = "prcaposdef"
    centring: str = "peer_bn"
    beta: float = 1.0

    def __post_init__(self) -> None:
        _above_zero("temperature", self.temperature)
        if self.basis not in BASES:
            raise unknown_name("basis", self.basis, BASES)
        if self.centring not in CENTRINGS:
            raise unknown_name("centring", self.centring, CENTRINGS)
        if not self.beta >= 0:
            raise ConfigError(f"beta must be at least 0, got {self.beta}")

    def build(self, setting: Setting) -> Criterion:
        return _Subspaces(self, setting)


METHODS: dict[str, type[Method]] = {method.name: method for method in (StudentOnly, KD, SubDistill)}


def parse_method(text: str) -> Method:
    """Return the method that `text` names: "kd", "subdistill:centring=mean,layer_weight=50"."""
    method: Method = parse_options(text, METHODS, "method")
    return method


def method_name(method: Method) -> str:
    """The shortest text that `parse_method` turns into `method`."""
    return format_options(method)


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} must be above 0, got {value}")


class _CrossEntropy(Criterion):
    needs_teacher = False

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], labels: Tensor, epoch: int) -> dict[str, Tensor]:
        return {"ce": cross_entropy(student.logits.float(), labels)}


class _Logits(Criterion):
    def __init__(self, weights: Mapping[str, float], temperature: float) -> None:
        super().__init__(weights)
        self.temperature = temperature

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], labels: Tensor, epoch: int) -> dict[str, Tensor]:
        logits = student.logits.float()
        return {"kd": kd(logits, teacher["logits"], self.temperature), "ce": cross_entropy(logits, labels)}


class _Subspaces(_Logits):
    def __init__(self, method: SubDistill, setting: Setting) -> None:
        weights = {"kd": method.kd_weight, "ce": method.task_weight}
        weights |= {str(pair): method.layer_weight for pair in setting.pair.layers}
        super().__init__(weights, method.temperature)
        self.pairs: tuple[LayerPair, ...] = setting.pair.layers if method.layer_weight > 0 else ()
        if not self.pairs and method.layer_weight > 0:
            raise ConfigError("SubDistill needs at least one layer pair: give layers = ['layer1:layer1', ...]")
        self.teacher_layers = tuple(p.teacher for p in self.pairs)
        self.student_layers = tuple(p.student for p in self.pairs)
        self.sizes = {p: setting.student_shapes[p.student][1:] for p in self.pairs}
        heads = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            for pair in self.pairs:
                k = setting.student_shapes[pair.student][0]
                moments = setting.moments[pair.teacher]
                basis = make_basis(moments, method.basis, k, beta=method.beta, seed=setting.seed)
                heads.append(SubspaceHead(basis, method.centring))
        self.heads = nn.ModuleList(heads)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        summary = super().summarise(teacher)
        for pair, head in zip(self.pairs, self.heads):
            size = self.sizes[pair]
            summary[str(pair)] = subspace_target(teacher.layers[pair.teacher], head.basis, (size[0], size[1]))  # type: ignore[arg-type]
        return summary

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], labels: Tensor, epoch: int) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, labels, epoch)
        for pair, head in zip(self.pairs, self.heads):
            terms[str(pair)] = head(student.layers[pair.student], teacher[str(pair)])
        return terms

"""Methods on local logits: the classifier applied to each cell of a coarse grid. They need a pooled linear head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.dkd import NKD_VARIANTS, dkd, nkd
from xaibench.distillation.losses.icd import icd
from xaibench.distillation.losses.kd import kd
from xaibench.distillation.losses.sdd import sdd
from xaibench.distillation.methods.base import (
    Logits,
    Method,
    check_not_negative,
    check_positive,
    check_share,
    check_weights,
)
from xaibench.distillation.methods.logit import warm_up
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.layer_outputs import Outputs
from xaibench.models.local_logits import SCALES, SpatialHead, local_logits

__all__ = ["ICD", "SDDKD", "SDKD", "SDNKD"]


@dataclass(frozen=True)
class _Grid(Method):
    """scales: sides of the grids, one of 1, 1+2, 1+4, 1+2+4. exact_global: see `models.local_logits.local_logits`."""

    temperature: float = 4.0
    scales: tuple[int, ...] = (1, 2, 4)
    exact_global: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        if self.scales not in SCALES:
            known = ", ".join("+".join(map(str, s)) for s in SCALES)
            raise ConfigError(f"scales must be one of {known}, got {'+'.join(map(str, self.scales)) or 'none'}")


@dataclass(frozen=True)
class _Decoupled(_Grid):
    """A loss on each cell's logits, averaged by `losses.sdd.sdd`, beside cross-entropy."""

    @abstractmethod
    def cells(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row: logits (N, K) twice, labels (N,) -> (N,)."""

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Factors of "ce" and of the method's own term."""

    def build(self, setting: Setting) -> Criterion:
        return _LocalLogits(setting, self, self, self.weights)


@dataclass(frozen=True)
class SDKD(_Decoupled):
    """alpha SD-KD + (1 - alpha) CE: the weighted mean over cells of KD. Source: arXiv 2403.13512."""

    name: ClassVar[str] = "sd-kd"
    alpha: float = 0.9
    warmup: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(alpha=self.alpha)
        check_not_negative(warmup=self.warmup)

    def cells(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return kd(student, teacher, self.temperature)

    @property
    def weights(self) -> dict[str, float]:
        return {self.name: self.alpha, "ce": 1 - self.alpha}


@dataclass(frozen=True)
class SDDKD(_Decoupled):
    """CE + min((epoch + 1) / warmup, 1) SD-DKD: the weighted mean over cells of DKD. Source: arXiv 2403.13512."""

    name: ClassVar[str] = "sd-dkd"
    alpha: float = 1.0
    beta: float = 8.0
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(alpha=self.alpha, beta=self.beta)
        check_not_negative(warmup=self.warmup)

    def cells(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return dkd(student, teacher, labels, self.alpha, self.beta, self.temperature)

    @property
    def weights(self) -> dict[str, float]:
        return {self.name: 1.0, "ce": 1.0}


@dataclass(frozen=True)
class SDNKD(_Decoupled):
    """CE + min((epoch + 1) / warmup, 1) SD-NKD: the weighted mean over cells of NKD. Source: arXiv 2403.13512.

    variant  see `losses.dkd.nkd`
    """

    name: ClassVar[str] = "sd-nkd"
    gamma: float = 2.0
    variant: str = "paper"
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(gamma=self.gamma)
        check_not_negative(warmup=self.warmup)
        if self.variant not in NKD_VARIANTS:
            raise unknown_name("NKD variant", self.variant, NKD_VARIANTS)

    def cells(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return nkd(student, teacher, labels, self.gamma, self.temperature, self.variant)

    @property
    def weights(self) -> dict[str, float]:
        return {self.name: 1.0, "ce": 1.0}


@dataclass(frozen=True)
class ICD(_Grid):
    """gamma L_cd + base: logit clustering distillation, `losses.icd.icd`, beside SD-KD, SD-DKD, SD-NKD or nothing.

    base   "sd-kd": 0.1 CE + 0.9 SD-KD; "sd-dkd", "sd-nkd": CE + min((epoch + 1) / warmup, 1) SD-...; "none": L_cd
           alone, which sees angles between cells only: add a method that teaches the classes
    gamma  2; 8 in the public CIFAR-100 scripts. L_cd itself is not warmed up
    beta   of SD-DKD, which the authors set to 2 here; variant  of SD-NKD, see `losses.dkd.nkd`
    Source: arXiv 2509.12553.
    """

    name: ClassVar[str] = "icd"
    base: str = "sd-kd"
    gamma: float = 2.0
    beta: float = 2.0
    variant: str = "paper"
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scales == (1,):
            raise ConfigError("iCD compares cells with each other: scales must hold 2 or 4, as in scales=1+2+4")
        check_positive(gamma=self.gamma)
        self._base()

    def build(self, setting: Setting) -> Criterion:
        base = self._base()
        return _LocalLogits(setting, self, base, {"icd": self.gamma} | (base.weights if base else {}))

    def _base(self) -> _Decoupled | None:
        grid = {"temperature": self.temperature, "scales": self.scales}
        bases: dict[str, Callable[[], _Decoupled | None]] = {
            "sd-kd": lambda: SDKD(**grid),  # type: ignore[arg-type]
            "sd-dkd": lambda: SDDKD(**grid, beta=self.beta, warmup=self.warmup),  # type: ignore[arg-type]
            "sd-nkd": lambda: SDNKD(**grid, variant=self.variant, warmup=self.warmup),  # type: ignore[arg-type]
            "none": lambda: None,
        }
        if self.base not in bases:
            raise unknown_name("base of iCD", self.base, bases)
        return {name: make() for name, make in bases.items()}[self.base]  # the options of all must be right


class _LocalLogits(Logits):
    def __init__(self, setting: Setting, grid: _Grid, base: _Decoupled | None, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.grid, self.base = grid, base
        self.teacher_head, self.student_head = setting.heads
        self.teacher_layers = (self.teacher_head.layer,)
        self.student_layers = (self.student_head.layer,)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return super().summarise(teacher) | {"local": self._local(teacher, self.teacher_head)}

    def observe(self, student: Outputs) -> Outputs:
        return Outputs(student.logits, student.layers | {"local": self._local(student, self.student_head)})

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        local = student.layers["local"]
        if "icd" in self.weights:
            terms["icd"] = icd(local, teacher["local"])
        if self.base is not None and self.base.name in self.weights:
            factor = warm_up(batch.epoch, self.base.warmup)  # type: ignore[attr-defined]
            terms[self.base.name] = factor * sdd(self.base.cells, local, teacher["local"], batch.labels)
        return terms

    def _local(self, outputs: Outputs, head: SpatialHead) -> Tensor:
        maps = outputs.layers[head.layer]
        return local_logits(maps, head, self.grid.scales, exact_global=self.grid.exact_global).float()

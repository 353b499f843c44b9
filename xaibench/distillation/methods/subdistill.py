"""SubDistill: match the teacher inside its subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.losses.layer import LayerLoss
from xaibench.distillation.losses.subdistill import CENTRINGS, MAPPINGS, SubspaceLoss
from xaibench.distillation.methods.base import Method, check_not_negative, check_positive, check_weights
from xaibench.distillation.methods.layered import Layered
from xaibench.errors import unknown_name
from xaibench.models.layer_outputs import Outputs
from xaibench.models.layer_pairs import LayerPair
from xaibench.subspace.bases import BASES, make_basis

__all__ = ["SubDistill"]

DIMENSIONS = ("student", "full")


@dataclass(frozen=True)
class SubDistill(Method):
    """kd_weight KD + layer_weight sum_l L_l + task_weight CE, L_l as in `losses.subdistill.subspace_loss`.

    basis           a name in `subspace.BASES`
    centring        a name in `losses.subdistill.CENTRINGS`; `peer_bn` is the public code's, `mean` the paper's text
    beta            scales the gradient in the `prcaposdef` basis
    mapping         a name in `losses.subdistill.MAPPINGS`; "soft-..." add `orthogonality` times their penalty
    dimension       "student": a subspace of as many dimensions as the student's layer has channels; "full": all of the
                    teacher's, into which the student's channels are embedded
    normalise       False leaves out the division by the teacher's energy
    layers          student layers of the pairs to use; () all, ("last",) the last
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
    mapping: str = "rotation"
    orthogonality: float = 1000.0
    dimension: str = "student"
    normalise: bool = True
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_weights(layer_weight=self.layer_weight, kd_weight=self.kd_weight, task_weight=self.task_weight)
        check_not_negative(beta=self.beta)
        check_not_negative(orthogonality=self.orthogonality)
        for what, value, known in (
            ("basis", self.basis, BASES),
            ("centring", self.centring, CENTRINGS),
            ("mapping", self.mapping, MAPPINGS),
            ("dimension", self.dimension, DIMENSIONS),
        ):
            if value not in known:
                raise unknown_name(what, value, known)

    def build(self, setting: Setting) -> Criterion:
        return _Subspaces(self, setting)


class _Subspaces(Layered):
    def __init__(self, method: SubDistill, setting: Setting) -> None:
        def make(pair: LayerPair) -> LayerLoss:
            student = setting.student_shapes[pair.student]
            moments = setting.moments[pair.teacher]
            k = student[0] if method.dimension == "student" else moments.channels
            basis = make_basis(moments, method.basis, k, beta=method.beta, seed=setting.seed)
            return SubspaceLoss(
                basis, student, centring=method.centring, mapping=method.mapping, normalise=method.normalise
            )

        super().__init__(
            setting,
            setting.layer_pairs(method.layers) if method.layer_weight > 0 else (),
            make,
            layer_weight=method.layer_weight,
            kd_weight=method.kd_weight,
            task_weight=method.task_weight,
            temperature=method.temperature,
        )
        if method.mapping.startswith("soft") and method.orthogonality > 0 and self.pairs:
            self.weights["orthogonality"] = method.orthogonality

    def terms(self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        terms = super().terms(student, teacher, batch)
        if "orthogonality" in self.weights:
            penalties = torch.stack([loss.penalty() for loss in self.losses])  # type: ignore[operator]
            terms["orthogonality"] = penalties.sum().expand(len(student.logits))
        return terms

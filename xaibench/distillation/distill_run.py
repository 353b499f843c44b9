"""What a finished distillation is."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from torch import nn

from xaibench.distillation.methods import Method, method_name
from xaibench.distillation.recipe import Recipe
from xaibench.models.memory_format import MemoryFormat
from xaibench.models.pair import ModelPair

__all__ = ["DistillRun"]


@dataclass(frozen=True, eq=False)
class DistillRun:
    """A finished distillation and everything that says how it came about.

    student     the best student by validation accuracy, in evaluation mode, where the pair's student is
    pair        the given pair around it
    history     one row an epoch: loss, its terms, validation accuracy and agreement, seconds
    best_epoch  the epoch that `student` is from, counted from 0
    seconds     wall-clock time of this call: subspace, teacher outputs and training
    format      the memory format in which the student was trained, and why
    influence   one row a training image (image, label, weight, influence), for `InfluenceWeighted`; else None
    """

    student: nn.Module
    pair: ModelPair
    method: Method
    recipe: Recipe
    seed: int
    history: pd.DataFrame
    best_epoch: int
    seconds: float
    hashes: dict[str, str]
    format: MemoryFormat
    influence: pd.DataFrame | None = None

    @property
    def validation_accuracy(self) -> float:
        return float(self.history["validation_accuracy"].max())

    def __repr__(self) -> str:
        return (
            f"DistillRun({method_name(self.method)}, seed={self.seed}, validation accuracy="
            f"{self.validation_accuracy:.3f} in epoch {self.best_epoch} of {len(self.history)})"
        )

"""Cross flipping: does the student's answer hang on the patches that its teacher's answer hangs on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor, nn

from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.models.pair import ModelPair
from xaibench.similarity.flipping import FlipCurve, flip_curve
from xaibench.similarity.intervals import Interval, curve_interval, mean_interval, ratio_interval
from xaibench.similarity.patch_order import patch_order, random_order
from xaibench.validation import checked

__all__ = ["CrossFlip", "cross_flip", "cross_ratio", "curve_band", "curve_table", "flip_orders"]

_OPTIONS = ("measure", "grid", "fill", "steps", "points", "device")  # of `flip_curve`

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CrossFlip:
    """Flip curves of a student and its teacher on the same images.

    student  the student's curves by order: "own", "teacher" (the teacher's order), "random"
    teacher  the teacher's: "own", "random" (the student's random order)
    seed     of the random order and of the bootstrap
    """

    student: dict[str, FlipCurve]
    teacher: dict[str, FlipCurve]
    seed: int = 0

    @property
    def ratio(self) -> Interval:
        """How much of what its own order does to the student the teacher's order does too; see `cross_ratio`."""
        return cross_ratio(*(self.student[order].auc for order in ("own", "teacher", "random")), seed=self.seed)

    @property
    def difference(self) -> Interval:
        """AUC in the teacher's order minus AUC in the student's own, mean over images: 0 where both orders do alike."""
        return mean_interval((self.student["teacher"].auc - self.student["own"].auc)[None], seed=self.seed)

    def agreement(self, order: str = "teacher") -> Array:
        """(N, S + 1) 1 where student and teacher agree on the same flipped image, else 0; NaN where undefined.

        order  "teacher" (the teacher's own) or "random": the orders in which both were flipped
        """
        matching = {"teacher": "own", "random": "random"}
        if order not in matching:
            raise unknown_name("order that both models were flipped in", order, matching)
        return self.student[order].agreement(self.teacher[matching[order]])

    def __repr__(self) -> str:
        return f"CrossFlip(ratio {self.ratio}, AUC teacher's order - own {self.difference}, {self.student['own']})"


@checked
def cross_flip(
    pair: ModelPair,
    x: Tensor,
    teacher_maps: Any,
    student_maps: Any,
    target: Target,
    *,
    student_target: Target | None = None,
    teacher: dict[str, FlipCurve] | None = None,
    grid: int | None = None,
    seed: int = 0,
    **options: Any,
) -> CrossFlip:
    """Flip the student's input in its own order, in the teacher's and in a random one, and the teacher's in its own.

    x               (N, C, H, W) normalised images
    teacher_maps    heatmaps (N, H, W) of the teacher
    student_maps    heatmaps (N, H, W) of the student
    target          what is measured; student_target: the student's own, where it was asked another question
    teacher         the teacher's curves where they are known already (one teacher, many students): `.teacher` of an
                    earlier result with the same images, seed and options
    grid, options   as for `flip_curve` (measure, fill, steps, points, device)

    An image whose map is constant or not finite has no curve in that map's order (NaN, counted in every interval).
    """
    if "mode" in options or "first" in options:
        raise ConfigError("cross flipping always removes the most relevant patches first: leave out mode and first")
    for name in options:
        if name not in _OPTIONS:
            raise unknown_name("option of flipping", name, _OPTIONS)
    order = patch_order(teacher_maps, grid)
    chance = random_order(order.shape[0], order.shape[1], seed)
    if teacher is None:
        orders = {"own": order, "random": chance}
        teacher = flip_orders(pair.teacher, x, orders, target, pair.preprocessing, **options)
    orders = {"own": patch_order(student_maps, grid), "teacher": order, "random": chance}
    asked = target if student_target is None else student_target
    return CrossFlip(flip_orders(pair.student, x, orders, asked, pair.preprocessing, **options), teacher, seed)


def flip_orders(
    model: nn.Module, x: Tensor, orders: Mapping[str, Any], target: Target, preprocessing: Preprocessing, **options: Any
) -> dict[str, FlipCurve]:
    """One `flip_curve` of `model` for each named order; options as there."""
    return {name: flip_curve(model, x, order, target, preprocessing, **options) for name, order in orders.items()}


def cross_ratio(own: Any, teacher: Any, random: Any, *, seed: int = 0, resamples: int = 10_000) -> Interval:
    """(AUC_random - AUC_teacher's order) / (AUC_random - AUC_own order), AUCs being means over images; 95% interval.

    own, teacher, random  AUCs of one student, (N,), or of S training seeds, (S, N)

    1: the teacher's order harms the student as much as its own; 0: no more than a random order; above 1: more than its
    own does. A ratio of means, as one image's own order may well be no better than chance: see `ratio_interval`. NaN
    where the own order is not better than the random one.
    """
    least, ours, chance = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (own, teacher, random))
    undefined = np.isnan(least + ours + chance)
    above, below = (np.where(undefined, np.nan, chance - one) for one in (ours, least))
    return ratio_interval(above, below, seed=seed, resamples=resamples)


def curve_band(outputs: Any, *, seed: int = 0, resamples: int = 2_000) -> pd.DataFrame:
    """Mean curve with its pointwise 95% interval: outputs (N, T), or (S, N, T) over S seeds -> T rows.

    Columns mean, low, high, n, nan; see `curve_interval`.
    """
    values = np.asarray(outputs, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3:
        raise DataError(f"outputs of a curve must be (N, T) or (S, N, T), got {values.shape}")
    mean, low, high, n = curve_interval(values, seed=seed, resamples=resamples)
    nan = np.isnan(values).sum(axis=(0, 1))
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n, "nan": nan})


def curve_table(flips: Sequence[CrossFlip], student: str = "student", teacher: str | None = "teacher") -> pd.DataFrame:
    """Tidy curves of one student, or of its training seeds: model, order, measure, fill, fraction and `curve_band`.

    student, teacher  what the models are called; teacher=None leaves out the teacher's own curves

    measure is what the curves hold ("difference", "probability"), "unchanged" (share of images with the prediction that
    they have as a whole) and, for the orders of both models, "with teacher" (share on which student and teacher agree).
    """
    roles = [(student, [flip.student for flip in flips])]
    if teacher is not None:
        roles.insert(0, (teacher, [flips[0].teacher]))
    parts = []
    for model, curves in roles:
        for order, one in curves[0].items():
            measures = {
                one.measure: [c[order].outputs for c in curves],
                "unchanged": [c[order].unchanged for c in curves],
            }
            if model == student and order != "own":
                measures["with teacher"] = [flip.agreement(order) for flip in flips]
            for measure, outputs in measures.items():
                band = curve_band(np.stack(outputs), seed=flips[0].seed)
                about = {"model": model, "order": order, "measure": measure, "fill": one.options["fill"]}
                parts.append(pd.DataFrame({**about, "fraction": one.fractions}).join(band))
    return pd.concat(parts, ignore_index=True)

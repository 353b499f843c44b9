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
from xaibench.similarity.intervals import Interval, bootstrap_seeds
from xaibench.similarity.patch_order import patch_order, random_order

__all__ = ["CrossFlip", "cross_flip", "cross_ratio", "curve_band", "curve_table", "flip_orders"]

Array = npt.NDArray[np.float64]

_CHUNK = 4_000_000  # numbers held in memory at a time


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
        return bootstrap_seeds((self.student["teacher"].auc - self.student["own"].auc)[None], seed=self.seed)

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
    grid, options   as for `flip_curve` (measure, fill, steps, points)

    An image whose map is constant or not finite has no curve in that map's order (NaN, counted in every interval).
    """
    if "mode" in options or "first" in options:
        raise ConfigError("cross flipping always removes the most relevant patches first: leave out mode and first")
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
    own does. A ratio of means, as one image's own order may well be no better than chance. An image with a NaN among
    its three is left out and counted. The ratio is NaN where the own order is not better than the random one; the
    interval (bootstrap over images, and over seeds where S > 1) is NaN where that happens in 2.5% of the resamples.
    """
    values = np.stack([np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (own, teacher, random)], axis=-1)
    values[np.isnan(values).any(axis=-1)] = np.nan
    gains = values[..., 2:] - values[..., [1, 0]]  # (S, N, 2)
    defined = ~np.isnan(gains[..., 0])
    n, nan = int(defined.sum()), int((~defined).sum())
    above, below = gains[defined].mean(axis=0) if n else (np.nan, np.nan)
    ratio = float(above / below) if below > 0 else float("nan")
    if np.isnan(ratio) or defined.any(axis=0).sum() < 2:
        return Interval(ratio, float("nan"), float("nan"), n, nan)
    means = _resampled_means(gains, seed, resamples)
    fine = means[:, 1] > 0
    if fine.mean() < 0.975:
        return Interval(ratio, float("nan"), float("nan"), n, nan)
    low, high = np.quantile(means[fine, 0] / means[fine, 1], [0.025, 0.975])
    return Interval(ratio, min(float(low), ratio), max(float(high), ratio), n, nan)


def curve_band(outputs: Any, *, seed: int = 0, resamples: int = 2_000) -> pd.DataFrame:
    """Mean curve with its pointwise 95% interval: outputs (N, T), or (S, N, T) over S seeds -> T rows.

    Columns mean, low, high, n, nan. Percentile bootstrap over images, and over seeds where S > 1; the same resamples at
    every point. Undefined outputs (NaN) are left out and counted.
    """
    values = np.asarray(outputs, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3:
        raise DataError(f"outputs of a curve must be (N, T) or (S, N, T), got {values.shape}")
    defined = ~np.isnan(values)
    n = defined.sum(axis=(0, 1))
    total = np.where(defined, values, 0.0).sum(axis=(0, 1))
    mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    low, high = np.full((2, len(n)), np.nan)
    some = defined.any(axis=0).sum(axis=0) > 1
    if some.any():
        means = _resampled_means(values[..., some], seed, resamples)
        low[some], high[some] = np.nanquantile(means, [0.025, 0.975], axis=0)
    low, high = np.minimum(low, mean), np.maximum(high, mean)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n, "nan": values.shape[0] * values.shape[1] - n})


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


def _resampled_means(values: Array, seed: int, resamples: int) -> Array:
    # (S, N, T) -> (resamples, T): means over seeds and images, both drawn with replacement; NaN left out.
    seeds, images, points = values.shape
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    generator = np.random.default_rng(seed)
    rows = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    means = np.empty((resamples, points))
    step = max(1, _CHUNK // max(images, points))
    for start in range(0, resamples, step):
        part = slice(start, min(start + step, resamples))
        columns = generator.multinomial(images, np.full(images, 1 / images), part.stop - start).astype(np.float64)
        total, count = np.zeros((2, part.stop - start, points))
        for s in range(seeds):
            total += rows[part, s, None] * (columns @ filled[s])
            count += rows[part, s, None] * (columns @ defined[s].astype(np.float64))
        means[part] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return means

"""What is measured inside the models of a run, as rows of its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from torch import Tensor

from xaibench.attribution.layers import LayerRelevance
from xaibench.similarity.intervals import Interval, mean_interval, ratio_interval, seed_interval
from xaibench.similarity.nulls import derangement
from xaibench.similarity.representations import distance_correlation, feature_similarity_score, linear_cka
from xaibench.similarity.subspaces import (
    Array,
    Frame,
    Projection,
    at_one_size,
    cosines,
    direction_cosines,
    locations,
    random_rotation,
    relevance_by_direction,
    relevance_shares,
    residuals,
)
from xaibench.subspace.bases import make_basis
from xaibench.subspace.moments import LayerMoments

__all__ = ["BASIS", "Seen", "likeness_rows", "share_rows"]

BASIS = "prcaposdef"
_POINTS = 16
_ROTATIONS = 5
_RESAMPLES = 2_000

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Seen:
    """A model's layer on the explained images.

    layer  activation and relevance there
    frame  the k directions that it is read in
    kept   the layer's output (N, d, H, W) for what is relevant of each image, see `relevant_part`; None: no FSS
    """

    layer: LayerRelevance
    frame: Frame
    kept: Tensor | None = None

    @cached_property
    def projection(self) -> Projection:
        return self.frame.project(self.layer.activation, self.layer.context)


def share_rows(layer: LayerRelevance, moments: LayerMoments, width: int, seed: int = 0) -> list[Row]:
    """Share of a teacher layer's relevance in the first k directions of its subspace, of PCA and of a random subspace.

    For some k from 1 to the layer's d channels, `width` among them; with the mean subtracted ("relevance share") and
    without ("uncentred share"). A random subspace carries k/d on average.
    """
    d = moments.channels
    counts = sorted({*np.geomspace(1, d, _POINTS).round().astype(int).tolist(), width})
    rows = []
    for kind, pairing in ((BASIS, "matched"), ("pca", "pca subspace")):
        frame = Frame.of_basis(make_basis(moments, kind, d))
        for measure, one in (("relevance share", frame), ("uncentred share", frame.uncentred)):
            parts = relevance_by_direction(one.project(layer.activation, layer.context))
            shares = relevance_shares(parts, counts, seed=seed)
            rows += [_row(measure, pairing, k, share) for k, share in zip(counts, shares)]
    for measure in ("relevance share", "uncentred share"):
        rows += [_row(measure, "random subspace", k, _number(k / d)) for k in counts]
    return rows


def likeness_rows(teacher: Seen, students: Sequence[Seen], seed: int = 0) -> list[Row]:
    """How alike the students (one a seed) are to the teacher at a layer, in the same k directions, with controls."""
    own = teacher.projection
    order = derangement(len(own.activation), seed)
    k = own.activation.shape[1]

    def turned(student: Seen) -> list[Projection]:
        frames = (student.frame.rotated(random_rotation(k, seed + turn)) for turn in range(_ROTATIONS))
        return [frame.project(student.layer.activation, student.layer.context) for frame in frames]

    controls: dict[str, Callable[[Seen], list[Projection]]] = {
        "matched": lambda student: [student.projection],
        "random rotation": turned,
        "mismatched images": lambda student: [Projection(*(maps[order] for maps in student.projection))],
    }
    rows: list[Row] = []
    for pairing, make in controls.items():
        relevance, activation, errors, energies = [], [], [], []
        for student in students:
            variants = make(student)
            relevance.append(_mean([cosines(own.relevance, other.relevance) for other in variants]))
            activation.append(_mean([cosines(own.activation, other.activation) for other in variants]))
            sums = [residuals(own.activation, other.activation) for other in variants]
            errors.append(_mean([error for error, _ in sums]))
            energies.append(sums[0][1])
        unexplained = ratio_interval(errors, energies, seed=seed)
        explained = Interval(1 - unexplained.mean, 1 - unexplained.high, 1 - unexplained.low, unexplained.n)
        rows += [
            _row("relevance cosine", pairing, k, _over_seeds(relevance, seed)),
            _row("activation cosine", pairing, k, _over_seeds(activation, seed)),
            _row("explained variance", pairing, k, explained),
        ]
    measures = _MEASURES if teacher.kept is None else _MEASURES | {"FSS": _fss}
    for pairing, pick in (("matched", slice(None)), ("mismatched images", order)):
        for measure, score in measures.items():
            values = [score(teacher, student, pick) for student in students]
            rows.append(_row(measure, pairing, k, seed_interval(values)))
    single = np.stack([direction_cosines(own.relevance, student.projection.relevance) for student in students])
    rows += [_row("direction cosine", "matched", j + 1, _over_seeds(single[:, :, j], seed)) for j in range(k)]
    return rows


def _cka(teacher: Seen, student: Seen, pick: Any) -> float:
    pair = at_one_size(teacher.projection.activation, student.projection.activation[pick])
    return linear_cka(*(locations(maps) for maps in pair))


def _distance(teacher: Seen, student: Seen, pick: Any) -> float:
    pair = at_one_size(teacher.projection.activation, student.projection.activation[pick])
    return distance_correlation(*pair, corrected=True)


def _fss(teacher: Seen, student: Seen, pick: Any) -> float:
    return feature_similarity_score(cast(Tensor, teacher.kept), cast(Tensor, student.kept)[pick])


_MEASURES: dict[str, Callable[[Seen, Seen, Any], float]] = {
    "linear CKA": _cka,
    "distance correlation": _distance,
}


def _mean(values: list[Array]) -> Array:
    return np.asarray(np.mean(values, axis=0))


def _over_seeds(values: Any, seed: int) -> Interval:
    return mean_interval(values, seed=seed, resamples=_RESAMPLES)


def _number(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"), 0)


def _row(measure: str, pairing: str, k: int, score: Interval) -> Row:
    about = {"measure": measure, "pairing": pairing, "k": k}
    return about | {"value": score.mean, "low": score.low, "high": score.high, "n": score.n}

"""compare(): two models or two sets of heatmaps -> scores per image, beside chance and the nulls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer
from xaibench.attribution.explain import PairAttribution, explain, explain_model
from xaibench.attribution.result import Attribution
from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import make_target
from xaibench.data.images import ImageSet
from xaibench.errors import DataError, ExplanationError, unknown_name
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, default_grid, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted
from xaibench.similarity.similarity_report import INDEPENDENT, SimilarityReport
from xaibench.validation import checked, require

__all__ = ["compare", "explain_null"]

_log = logging.getLogger(__name__)

_RANDOM = "random student"
_Maps = Attribution | Tensor | npt.NDArray[Any]


@overload
def compare(
    teacher: ModelPair,
    student: ImageSet,
    explainer: Explainer | str = ...,
    *,
    metrics: str | Sequence[str] = ...,
    grid: int | None = ...,
    sign: str = ...,
    independent_student: nn.Module | Attribution | None = ...,
    random_student: nn.Module | Attribution | None = ...,
    contrast: str = ...,
    device: torch.device | str | None = ...,
    memory: int | None = ...,
    store: AttributionStore | None = ...,
    seed: int = ...,
) -> SimilarityReport: ...
@overload
def compare(
    teacher: Attribution | Tensor | npt.NDArray[Any],
    student: Attribution | Tensor | npt.NDArray[Any],
    *,
    keys: Sequence[str] | None = ...,
    metrics: str | Sequence[str] = ...,
    grid: int | None = ...,
    sign: str = ...,
    independent_student: Attribution | Tensor | npt.NDArray[Any] | None = ...,
    random_student: Attribution | Tensor | npt.NDArray[Any] | None = ...,
    seed: int = ...,
) -> SimilarityReport: ...
@checked(error=DataError)
def compare(
    teacher: Any,
    student: Any = None,
    explainer: Any = "lrp",
    *,
    keys: Sequence[str] | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    grid: int | None = None,
    sign: str = "signed",
    independent_student: nn.Module | Attribution | Tensor | npt.NDArray[Any] | None = None,
    random_student: nn.Module | Attribution | Tensor | npt.NDArray[Any] | None = None,
    contrast: str = "teacher",
    device: torch.device | str | None = None,
    memory: int | None = None,
    store: AttributionStore | None = None,
    seed: int = 0,
) -> SimilarityReport:
    """Score how alike the heatmaps of teacher and student are, beside the nulls.

    `compare(pair, images, "lrp")` explains the images under both models of the pair first (see `explain`, which takes
    explainer, contrast, device, memory and store); `compare(maps, maps)` scores what is there.

    teacher, student     a ModelPair and an ImageSet; or two Attributions, or two sets of maps (N, H, W)
    keys                 a unique name per image; None: those of the ImageSet, else "0", "1", ...
    metrics              names from METRICS, or one
    grid                 cells a side after pooling; None: 28 -> 7, 32 -> 8, 224 -> 14
    sign                 "signed", "absolute" or "positive", applied after pooling
    independent_student  a student of the same form that was trained without this teacher, or the same images explained
                         under it: the null that the lift is reported over
    random_student       a randomly initialised student, or the same images explained under it

    Two more nulls are always scored: the student's maps of other images in a seeded pairing (for two images or more),
    and its own maps mirrored and shifted at random (`nulls.shifted`; for two cells a side or more).

    Images that an Attribution flags as incomplete count as undefined (NaN). A random student without a valid
    explanation is left out, with a warning in the log.

    Raises ExplanationError for explanations that are not valid or that answer different questions (other images,
    explainers or targets; targets may differ under contrast="own"), DataError for shapes or keys that do not match.
    """
    sets: dict[str, Any] = {"teacher": teacher, "student": student}
    nulls = {INDEPENDENT: independent_student, _RANDOM: random_student}
    sets |= {role: null for role, null in nulls.items() if null is not None}
    if isinstance(teacher, nn.Module):
        raise DataError("two models are compared as a pair: give ModelPair.load(teacher, student, task), and images")
    if isinstance(teacher, PairAttribution):
        raise DataError("the maps of a pair are compared one by the other: give maps.teacher, maps.student")
    require(teacher, ModelPair | _Maps, "compare: teacher", DataError)
    if isinstance(teacher, ModelPair):
        if not isinstance(student, ImageSet):
            got = type(student).__name__
            raise DataError(f"a pair is compared on an ImageSet, got {got}: give task.test.sample(40), say")
        keys = student.keys if keys is None else keys
        sets = _explained(sets, explainer, contrast=contrast, device=device, memory=memory, store=store)
    else:
        require(student, ImageSet | _Maps, "compare: student", DataError)
    for role, given in sets.items():
        if isinstance(given, (ModelPair, ImageSet, nn.Module)):
            raise DataError(f"the {role} is of type {type(given).__name__}, which goes with a ModelPair: give its maps")
    return _scored(sets, keys, metrics, grid, sign, seed)


def _explained(sets: dict[str, Any], explainer: Explainer | str, *, contrast: str, **options: Any) -> dict[str, Any]:
    """Maps of a pair, the images and nulls that `sets` holds: role -> maps."""
    pair, images = sets["teacher"], sets["student"]
    maps = dict(explain(pair, images, explainer, contrast=contrast, **options)._asdict())
    for role, null in list(sets.items())[2:]:
        try:
            maps[role] = explain_null(pair, null, images, maps["teacher"], **options) if _is_model(null) else null
        except ExplanationError as error:
            if role != _RANDOM:  # the score itself does not depend on a random student
                raise
            _log.warning("no random student to compare with: %s", error)
    return maps


def _is_model(null: object) -> bool:
    return isinstance(null, nn.Module)


def _scored(
    sets: dict[str, Any],
    keys: Sequence[str] | None,
    metrics: str | Sequence[str],
    grid: int | None,
    sign: str,
    seed: int,
) -> SimilarityReport:
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if not metrics or len(set(metrics)) != len(metrics):
        raise DataError(f"metrics must be given once each, at least one, got {metrics}")
    for role, given in sets.items():
        if isinstance(given, Attribution):
            given.validity.require(f"the {role}'s explanation")
            if isinstance(first := sets["teacher"], Attribution):
                _same_question(first, given, role)
    raw = {role: given.heatmaps if isinstance(given, Attribution) else given for role, given in sets.items()}
    shape = _shape(raw["teacher"], "teacher")
    for role, values in raw.items():
        if _shape(values, role) != shape:
            raise DataError(
                f"the {role}'s heatmaps have shape {_shape(values, role)}, the teacher's {shape}: "
                "explain the same images with both"
            )
    side = default_grid(shape[1], shape[2]) if grid is None else grid
    maps = {role: with_sign(pool(values, side), sign) for role, values in raw.items()}
    for role, given in sets.items():
        if isinstance(given, Attribution):
            maps[role][list(given.validity.flagged)] = np.nan
    n = len(maps["teacher"])
    names = [str(i) for i in range(n)] if keys is None else [str(key) for key in keys]
    if len(names) != n or len(set(names)) != n:
        raise DataError(f"{n} heatmaps need {n} unique keys, got {len(names)} ({len(set(names))} unique)")

    pairs: dict[str, npt.NDArray[np.float64]] = {"matched": maps["student"]}
    pairs |= {role: maps[role] for role in (INDEPENDENT, "random student") if role in maps}
    if n > 1:
        pairs["mismatched images"] = maps["student"][derangement(n, seed)]
    if side > 1:
        pairs["shifted maps"] = shifted(maps["student"], seed)
    frames = []
    for metric in metrics:
        for pairing, others in pairs.items():
            values = METRICS[metric](maps["teacher"], others)
            frames.append(pd.DataFrame({"image": names, "metric": metric, "pairing": pairing, "value": values}))
    return SimilarityReport(pd.concat(frames, ignore_index=True), side, sign, seed)


def explain_null(
    pair: ModelPair,
    model: nn.Module,
    images: ImageSet,
    teacher: Attribution,
    *,
    device: torch.device | str | None = None,
    memory: int | None = None,
    store: AttributionStore | None = None,
) -> Attribution:
    """Explain another student of the pair by the teacher's explainer, asked the teacher's question.

    Raises ExplanationError where the explanation is not valid.
    """
    target = teacher.target
    if target.rule == "own":
        own = predict_logits(model, images, pair.preprocessing, device=device)
        target = make_target(own, target.label, contrast="own", logits_own=own)
    x = pair.preprocessing(images.images)
    return explain_model(
        model, x, target, teacher.explainer, pair.preprocessing, device=device, memory=memory, store=store
    )


def _shape(maps: Any, role: str) -> tuple[int, int, int]:
    shape = tuple(getattr(maps, "shape", ()))
    if len(shape) != 3 or 0 in shape:
        got = shape or type(maps).__name__
        raise DataError(f"the {role}'s heatmaps must be an array or tensor (N, H, W) with N > 0, got {got}")
    n, height, width = shape
    return n, height, width


def _same_question(teacher: Attribution, other: Attribution, role: str) -> None:
    if other.input_hash != teacher.input_hash:
        raise ExplanationError(f"teacher and {role} were explained on different inputs: give both the same images")
    if other.explainer != teacher.explainer:
        raise ExplanationError(
            f"the teacher was explained by {teacher.explainer}, the {role} by {other.explainer}: use one explainer"
        )
    own = teacher.target.rule == other.target.rule == "own"
    if not (teacher.target.label.equal(other.target.label) if own else teacher.target.same_as(other.target)):
        raise ExplanationError(
            f"teacher and {role} were explained for different targets: pass the teacher's target to both"
        )

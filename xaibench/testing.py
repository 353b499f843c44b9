"""Assertions for test suites: a model that predicts the same for other reasons fails the build."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer
from xaibench.attribution.explain import PairAttribution, explain
from xaibench.attribution.explainers import as_explainer
from xaibench.attribution.result import Attribution
from xaibench.data.images import ImageSet
from xaibench.errors import ConfigError, DataError, ExplanationError, unknown_name
from xaibench.figures.gallery import gallery
from xaibench.figures.style import save_figure
from xaibench.models.copies import untrained
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.options import format_options
from xaibench.similarity.compare import compare, explain_null
from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.similarity_report import SimilarityReport
from xaibench.validation import require

__all__ = ["assert_explains_alike", "failure_folder"]

_WORST = 6

_log = logging.getLogger(__name__)


def failure_folder() -> Path:
    """Where pictures of failures go by default: xaibench-failures in the system's temporary folder."""
    return Path(tempfile.gettempdir()) / "xaibench-failures"


def assert_explains_alike(
    pair: ModelPair,
    images: ImageSet | Tensor,
    labels: Sequence[int] | Tensor | None = None,
    *,
    explainer: str | Explainer = "lrp",
    metric: str = "cosine",
    min_score: float | None = None,
    contrast: str = "teacher",
    grid: int | None = None,
    sign: str = "signed",
    independent_student: nn.Module | None = None,
    picture: Path | str | None = None,
    seed: int = 0,
    **minimums: float,
) -> SimilarityReport:
    """Assert that the student's heatmaps are on average at least this much like the teacher's.

    pair        the models
    images      an ImageSet, or (N, C, H, W) uint8
    labels      (N,) classes to explain; None: those of the ImageSet, or the teacher's predictions for a plain tensor
    explainer   "lrp", "ig:steps=20", ... or an explainer object
    min_score   least mean score of `metric`
    min_cosine, min_pearson, min_ssim, ...
                least mean score of that metric (any name in METRICS); several may be given, at least one must be
    contrast    "teacher": both answer the same question; "own": each against its own runner-up
    grid, sign  as for `compare`
    independent_student
                a student that was trained without this teacher: the report then has the lift over it
    picture     .png or .pdf for the worst images of a failure; None: a file in `failure_folder()`
    seed        of the untrained student, the mismatched pairing and the bootstrap

    Returns the report. Raises AssertionError with the table of scores (95% intervals, chance, nulls), the worst images
    and the path of their picture, where a mean is below its threshold or undefined; ExplanationError where the models
    cannot be explained validly, ConfigError for thresholds that make no sense.

    >>> assert_explains_alike(pair, images, min_cosine=0.6)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    wanted = _thresholds(metric, min_score, minimums)
    method = as_explainer(explainer)
    chosen = _image_set(pair, images, labels)
    maps = explain(pair, chosen, method, contrast=contrast)
    null, reason = _null(pair, chosen, maps, untrained(pair.student, seed))
    if independent_student is not None:
        independent, trouble = _null(pair, chosen, maps, independent_student)
        if independent is None:
            raise ExplanationError(f"the independent student cannot be explained: {trouble}")
    else:
        independent = None
    report = compare(
        maps.teacher,
        maps.student,
        keys=chosen.keys,
        metrics=[name for name in METRICS if name in wanted],
        grid=grid,
        sign=sign,
        independent_student=independent,
        random_student=null,
        seed=seed,
    )
    failed = {name: least for name, least in wanted.items() if not report.score(name).mean >= least}
    if not failed:
        return report
    first = next(iter(failed))
    worst = report.worst(first, _WORST)
    lines = [
        f"{METRICS[name].label} {report.score(name)} is below {least:g}" + _undefined(report, name)
        for name, least in failed.items()
    ]
    runner_up = "the teacher's runner-up" if contrast == "teacher" else "each model's own runner-up"
    raise AssertionError(
        f"teacher and student are not explained alike: {'; '.join(lines)}\n\n"
        f"{format_options(method)}, class against {runner_up}\n{report}\n"
        + (f"no random student: {reason}\n" if reason else "")
        + f"\nworst images by {METRICS[first].label}:\n"
        + "".join(f"  {report.values(first)[key]:+.3f}  {key}\n" for key in worst)
        + f"\n{_draw(pair, chosen, maps, report, first, worst, picture)}"
    )


def _thresholds(metric: str, min_score: float | None, minimums: dict[str, float]) -> dict[str, float]:
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    known = {f"min_{name}": name for name in METRICS}
    for option in minimums:
        if option not in known:
            raise unknown_name("threshold", option, ["min_score", *known])
    wanted = {} if min_score is None else {metric: min_score}
    for option, least in {"min_score": min_score, **minimums}.items():
        if option != "min_score" or least is not None:
            require(least, float, option)
    for option, least in minimums.items():
        if known[option] in wanted:
            raise ConfigError(f"min_score and {option} both set a threshold for {metric}: give one of them")
        wanted[known[option]] = least
    if not wanted:
        raise ConfigError("no threshold is given, so nothing could fail: give min_score or min_cosine, say")
    for name, least in wanted.items():
        low, high = METRICS[name].range
        if not low <= least <= high:
            raise ConfigError(f"the threshold for {name} is {least}, but its scores run from {low} to {high}")
    return wanted


def _image_set(pair: ModelPair, images: ImageSet | Tensor, labels: Sequence[int] | Tensor | None) -> ImageSet:
    given = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
    if isinstance(images, ImageSet):
        return images if given is None else ImageSet(images.images, given, images.classes, images.keys, images.source)
    if not isinstance(images, Tensor):
        raise DataError(f"images must be an ImageSet or a uint8 tensor (N, C, H, W), got {type(images).__name__}")
    keys = tuple(str(i) for i in range(len(images)))
    zeros = torch.zeros(len(images), dtype=torch.int64)
    chosen = ImageSet(images, zeros if given is None else given, pair.classes, keys, "a tensor")
    if given is None:
        predicted = predict_logits(pair.teacher, chosen, pair.preprocessing).argmax(dim=1)
        chosen = ImageSet(images, predicted, pair.classes, keys, "a tensor")
    return chosen


def _null(pair: ModelPair, images: ImageSet, maps: PairAttribution, model: nn.Module) -> tuple[Attribution | None, str]:
    # A random student must not decide whether a test passes: without a valid explanation of it there is no null, and
    # the message says why.
    try:
        return explain_null(pair, model, images, maps.teacher), ""
    except ExplanationError as error:
        _log.info("no null: %s", error)
        return None, str(error)


def _undefined(report: SimilarityReport, metric: str) -> str:
    undefined = report.score(metric).nan
    return f" ({undefined} of {len(report.values(metric))} images have no defined score)" if undefined else ""


def _draw(
    pair: ModelPair,
    images: ImageSet,
    maps: PairAttribution,
    report: SimilarityReport,
    metric: str,
    worst: Sequence[str],
    picture: Path | str | None,
) -> str:
    # Returns the message's last line. Nothing that goes wrong here may hide the failure that the picture is about.
    if not worst:
        return "no picture: no image has a defined score"
    try:
        return f"picture: {_picture(pair, images, maps, report, metric, worst, picture)}"
    except Exception as error:  # noqa: BLE001
        return f"no picture: {' '.join(str(error).split()) or type(error).__name__}"


def _picture(
    pair: ModelPair,
    images: ImageSet,
    maps: PairAttribution,
    report: SimilarityReport,
    metric: str,
    worst: Sequence[str],
    picture: Path | str | None,
) -> Path:
    name = f"{maps.teacher.model_hash}-{maps.student.model_hash}-{maps.student.input_hash}.png"
    path = Path(picture) if picture is not None else failure_folder() / name
    rows = [images.keys.index(key) for key in worst]
    target, classes = maps.teacher.target, pair.classes
    questions = [f"{classes[int(target.label[i])]}\nrather than {classes[int(target.contrast[i])]}" for i in rows]
    scores = [f"{METRICS[metric].label} {report.values(metric)[key]:.2f}" for key in worst]
    figure = gallery(
        (images.images[rows].float() / 255).numpy(),
        maps.teacher.scored_heatmaps[rows].numpy(),
        {"student": maps.student.scored_heatmaps[rows].numpy()},
        titles=[f"{question}\n{key}" for question, key in zip(questions, worst)],
        scores={"student": scores},
    )
    (saved,) = save_figure(figure, path.with_suffix(""), (path.suffix.removeprefix(".") or "png",))
    return saved

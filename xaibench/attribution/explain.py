"""explain(): one call from a model and its images to checked heatmaps."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.attribution.attribution import Attribution
from xaibench.attribution.base import Explainer, Maps, reason
from xaibench.attribution.explainers import EXPLAINERS, parse_explainer
from xaibench.attribution.targets import Target, make_target
from xaibench.attribution.validity import Check, Validity, map_checks
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.models.checkpoints import state_hash
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.progress import progress

__all__ = ["EXPLAINERS", "PairAttribution", "check_explainable", "explain", "explain_pair", "parse_explainer"]

CHECK_IMAGES = 4


def explain(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: Explainer,
    preprocessing: Preprocessing,
    *,
    batch_size: int | None = None,
    on_batch: Callable[[int], object] | None = None,
    check: bool = True,
) -> Attribution:
    """Explain z_y - z_r of every image and check the explanation.

    Works on a copy in evaluation mode: the model's weights, buffers, hooks and modes are never touched.

    x           (N, C, H, W) normalised images (`preprocessing(images)`)
    batch_size  images at a time; None: what suits the explainer
    on_batch    called after each batch with the number of images in it
    check       True: the explainer's checks run first, on up to 4 images spread over x, and an explanation
                that does not pass raises. False: nothing is refused, and the result says it is not valid.

    Raises ExplanationError for input that cannot be explained and for explanations that fail their checks.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    device = _device(model)
    what = f"{type(explainer).__name__} of {_name(model)}"
    work = _prepared(model, x, target, explainer, preprocessing)
    if check:
        checks = _checked(work, x, target, explainer, preprocessing)
    else:
        checks = (Check("checks left out", 1, 0, False, "explained with check=False"),)
    size = batch_size or explainer.batch_size
    batches: list[Maps] = []
    for start in range(0, len(x), size):
        part = torch.arange(start, min(start + size, len(x)))
        maps = explainer.attribute(work, x[part].to(device), target.take(part), preprocessing)
        batches.append(Maps(maps.relevance.float().cpu(), maps.references, maps.residual))
        if on_batch is not None:
            on_batch(len(part))
    relevance = torch.cat([maps.relevance for maps in batches])
    residuals = [maps.residual for maps in batches if maps.residual is not None]
    judged, flagged = explainer.judge(torch.cat(residuals) if residuals else None)
    validity = Validity((*checks, *judged, *map_checks(relevance)), flagged)
    if check:
        validity.require(what)
    return Attribution(
        relevance=relevance,
        target=target,
        explainer=explainer,
        validity=validity,
        model_hash=state_hash(model),
        input_hash=_hash(x),
        versions={library: _version(library) for library in ("xaibench", *explainer.libraries)},
        references={name: value.cpu() for name, value in batches[0].references.items()},
    )


class PairAttribution(NamedTuple):
    """The same question about the same images, answered by both models of a pair."""

    teacher: Attribution
    student: Attribution


def explain_pair(
    pair: ModelPair, images: ImageSet, explainer: Explainer, *, contrast: str = "teacher", check: bool = True
) -> PairAttribution:
    """Explain z_y - z_r of every image under teacher and student; y is the label.

    contrast  "teacher": r is the teacher's runner-up for both; "own": each model's own, as in arXiv 2601.05913

    Raises ExplanationError where either explanation does not pass its checks.
    """
    if images.classes != pair.classes:
        raise ExplanationError(
            f"the images' classes are {list(images.classes)} but the pair's are {list(pair.classes)}: "
            "load the images with the pair's classes"
        )
    x = pair.preprocessing(images.images)
    logits = {name: predict_logits(getattr(pair, name), images, pair.preprocessing) for name in PairAttribution._fields}
    parts = {}
    for name, own in logits.items():
        target = make_target(logits["teacher"], images.labels, contrast=contrast, logits_own=own)
        with progress(f"explain {name}", len(x)) as advance:
            model = getattr(pair, name)
            parts[name] = explain(model, x, target, explainer, pair.preprocessing, on_batch=advance, check=check)
    return PairAttribution(**parts)


def check_explainable(
    model: nn.Module, x: Tensor, target: Target, explainer: Explainer, preprocessing: Preprocessing
) -> tuple[Check, ...]:
    """Run the checks that `explain` makes before it explains anything: is the method valid for this network?

    Raises ExplanationError where it is not. Arguments as in `explain`; up to 4 images spread over x are used.
    """
    work = _prepared(model, x, target, explainer, preprocessing)
    return _checked(work, x, target, explainer, preprocessing)


def _prepared(
    model: nn.Module, x: Tensor, target: Target, explainer: Explainer, preprocessing: Preprocessing
) -> nn.Module:
    _check_input(x, target, preprocessing)
    explainer.check_input(x, preprocessing)
    work = _working_copy(model)
    few = _few(len(x))
    _check_logits(work, x[few].to(_device(model)), target)
    return work


def _checked(
    work: nn.Module, x: Tensor, target: Target, explainer: Explainer, preprocessing: Preprocessing
) -> tuple[Check, ...]:
    few = _few(len(x))
    checks = explainer.validate(work, x[few].to(_device(work)), target.take(few), preprocessing)
    if checks:
        Validity(checks).require(f"{type(explainer).__name__} of {_name(work)}")
    return checks


def _few(n: int) -> Tensor:
    return torch.linspace(0, n - 1, min(CHECK_IMAGES, n)).long()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _working_copy(model: nn.Module) -> nn.Module:
    work = copy.deepcopy(model).eval().requires_grad_(False)
    for module in work.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return work


def _check_input(x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ExplanationError(
            f"explain wants normalised images (N, C, H, W), got {got}: apply the preprocessing first"
        )
    if len(x) == 0:
        raise ExplanationError("there are no images to explain: give at least one")
    if x.shape[1] != preprocessing.channels:
        raise ExplanationError(
            f"images have {x.shape[1]} channels but the preprocessing has {preprocessing.channels}: "
            "use images and preprocessing of the same dataset"
        )
    if len(target) != len(x):
        raise ExplanationError(f"{len(x)} images but {len(target)} targets: give one target an image")
    broken = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bool(broken.any()):
        raise ExplanationError(
            f"input {int(broken.nonzero()[0])} has NaN or infinite values "
            f"({int(broken.sum())} of {len(x)} images do): check the image files and the preprocessing"
        )


@torch.no_grad()
def _check_logits(model: nn.Module, x: Tensor, target: Target) -> None:
    try:
        logits = model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ExplanationError(
            f"{_name(model)} cannot process images of shape {tuple(x.shape[1:])} ({reason(error)}): "
            "choose images that fit the model"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ExplanationError(f"{_name(model)} returns {got}, not logits (N, K): wrap it so that it does")
    if not bool(torch.isfinite(logits).all()):
        raise ExplanationError(f"{_name(model)} gives NaN or infinite logits: check its weights")
    classes = torch.cat([target.label, target.contrast])
    low, high, k = int(classes.min()), int(classes.max()), logits.shape[1]
    if low < 0 or high >= k:
        raise ExplanationError(
            f"target class {low if low < 0 else high} is not among the {k} classes of {_name(model)}: use 0..{k - 1}"
        )


def _name(model: nn.Module) -> str:
    inner = getattr(model, "network", None)
    return type(inner if isinstance(inner, nn.Module) else model).__name__


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"  # imported from a source tree


def _hash(x: Tensor) -> str:
    values = x.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype}{tuple(values.shape)}".encode())
    digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

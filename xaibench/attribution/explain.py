"""explain(): one call from a model and its images to checked heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.allocator import kept_memory
from xaibench.attribution.base import Explainer, Maps
from xaibench.attribution.batch_size import choose_points
from xaibench.attribution.checks import Check, Validity, map_checks
from xaibench.attribution.explainers import EXPLAINERS, as_explainer, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.attribution.store.keys import attribution_key, logits_key, model_key, versions_of
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import Target, make_target
from xaibench.attribution.working_copy import Prepared, check_input, few_of, model_name, prepare
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import uncompiled
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.progress import progress

__all__ = ["EXPLAINERS", "PairAttribution", "check_explainable", "explain", "explain_model", "parse_explainer"]

# More at a time are hardly faster, and progress would stand still for long.
MOST_IMAGES = 32

_LEFT_OUT = Check("checks left out", 1, 0, False, "explained with check=False")


@torch.inference_mode(False)
@kept_memory()
def explain_model(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: Explainer | str,
    preprocessing: Preprocessing,
    *,
    memory: int | None = None,
    batch_size: int | None = None,
    on_batch: Callable[[int], object] = lambda _: None,
    check: bool = True,
    store: AttributionStore | None = None,
) -> Attribution:
    """Explain z_y - z_r of every image and check the explanation.

    Works on a copy in evaluation mode, on the model's device: the model's weights, buffers, hooks and modes are never
    touched.

    x           (N, C, H, W) normalised images (`preprocessing(images)`)
    explainer   LRP(), ... or a text ("lrp:gamma=0.5", see `parse_explainer`)
    memory      bytes that activations may take: how many inputs the model sees at once follows from what a forward pass
                of it writes (see `memory`). None: 1 GiB
    batch_size  inputs that the model sees at once, in place of `memory`
    on_batch    called after each batch with the number of images in it
    check       True: the explainer's checks run first, on up to 4 images spread over x, and an explanation
                that does not pass raises. False: nothing is refused, and the result says it is not valid.
    store       where results are kept: what is there already is returned without a call of the model. Nothing is
                kept of models that hold what cannot be told apart (see `identity.model_key`)

    Raises ExplanationError for input that cannot be explained and for explanations that fail their checks,
    ConfigError for what is no explainer or store, and for a batch size or memory that is no whole number from 1.
    """
    model, explainer = uncompiled(model), as_explainer(explainer)
    _check_options(memory, batch_size, store)
    check_input(model, x, target, preprocessing)
    explainer.check_input(x, preprocessing)
    weights, inputs = state_hash(model), content_hash(x)
    key: str | None = None
    if store is not None:
        key = attribution_key(model_key(model, weights), inputs, target, explainer, preprocessing, check=check)
        if (found := store.find(key)) is not None:
            on_batch(len(x))
            return found
    work = prepare(model, x, target)
    points = batch_size or choose_points(work.image_bytes, memory)
    checks = _checked(work, x, target, explainer, preprocessing) if check else (_LEFT_OUT,)
    maps = _maps(
        work, x.detach(), target, explainer, preprocessing, points, batch_size or min(points, MOST_IMAGES), on_batch
    )
    judged, flagged = explainer.judge(maps.residual)
    validity = Validity((*checks, *judged, *map_checks(maps.relevance)), flagged)
    if check:
        validity.require(_what(model, explainer))
    attribution = Attribution(
        relevance=maps.relevance,
        target=target,
        explainer=explainer,
        validity=validity,
        model_hash=weights,
        input_hash=inputs,
        versions=versions_of(*explainer.libraries),
        references=maps.references,
    )
    if store is not None:
        store.keep(key, attribution)
    return attribution


class PairAttribution(NamedTuple):
    """The same question about the same images, answered by both models of a pair."""

    teacher: Attribution
    student: Attribution


def explain(
    pair: ModelPair,
    images: ImageSet,
    explainer: Explainer | str,
    *,
    contrast: str = "teacher",
    memory: int | None = None,
    check: bool = True,
    store: AttributionStore | None = None,
) -> PairAttribution:
    """Explain z_y - z_r of every image under teacher and student; y is the label.

    explainer      an explainer or its text, as for `explain`
    contrast       "teacher": r is the teacher's runner-up for both; "own": each model's own, as in arXiv 2601.05913
    memory, check  as for `explain`
    store          where maps and logits are kept: a second look makes no call of either model

    Raises ExplanationError where either explanation does not pass its checks.
    """
    if not isinstance(images, ImageSet):
        raise ExplanationError(
            f"explain wants an ImageSet with labels, got {type(images).__name__}: "
            "take one from a task, or explain each model by itself"
        )
    if images.classes != pair.classes:
        raise ExplanationError(
            f"the images' classes are {list(images.classes)} but the pair's are {list(pair.classes)}: "
            "load the images with the pair's classes"
        )
    explainer = as_explainer(explainer)
    _check_options(memory, None, store)
    x = pair.preprocessing(images.images)
    models = {"teacher": pair.teacher, "student": pair.student}
    logits = {name: _logits(model, images, x, pair.preprocessing, store) for name, model in models.items()}
    parts = {}
    for name, own in logits.items():
        target = make_target(logits["teacher"], images.labels, contrast=contrast, logits_own=own)
        with progress(f"explain {name}", len(x)) as advance:
            parts[name] = explain_model(
                models[name],
                x,
                target,
                explainer,
                pair.preprocessing,
                memory=memory,
                on_batch=advance,
                check=check,
                store=store,
            )
    return PairAttribution(**parts)


def check_explainable(
    model: nn.Module, x: Tensor, target: Target, explainer: Explainer | str, preprocessing: Preprocessing
) -> tuple[Check, ...]:
    """Run the checks that `explain` makes before it explains anything: is the method valid for this network?

    Raises ExplanationError where it is not. Arguments as in `explain`; up to 4 images spread over x are used.
    """
    model, explainer = uncompiled(model), as_explainer(explainer)
    check_input(model, x, target, preprocessing)
    explainer.check_input(x, preprocessing)
    return _checked(prepare(model, x, target), x, target, explainer, preprocessing)


def _check_options(memory: object, batch_size: object, store: object) -> None:
    for name, value in (("memory", memory), ("batch_size", batch_size)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ConfigError(f"{name} must be at least 1, got {value!r}: give a whole number")
    if store is not None and not isinstance(store, AttributionStore):
        raise ConfigError(f"store must be an AttributionStore, got {store!r}: write AttributionStore(folder)")


def _maps(
    work: Prepared,
    x: Tensor,
    target: Target,
    explainer: Explainer,
    preprocessing: Preprocessing,
    points: int,
    size: int,
    on_batch: Callable[[int], object],
) -> Maps:
    """All maps on the CPU, `size` images at a time."""
    batches: list[Maps] = []
    for part in torch.arange(len(x)).split(size):
        maps = explainer.attribute(work.model, x[part].to(work.device), target.take(part), preprocessing, points)
        references = {name: value.cpu() for name, value in maps.references.items()}
        batches.append(Maps(maps.relevance.float().cpu(), references, maps.residual))
        on_batch(len(part))
    residuals = [maps.residual for maps in batches if maps.residual is not None]
    return Maps(
        torch.cat([maps.relevance for maps in batches]),
        {name: _joined([maps.references[name] for maps in batches]) for name in batches[0].references},
        torch.cat(residuals) if residuals else None,
    )


def _joined(references: list[Tensor]) -> Tensor:
    first = references[0]
    shared = all(len(value) == 1 and torch.equal(value, first) for value in references)
    return first if shared else torch.cat(references)


def _checked(
    work: Prepared, x: Tensor, target: Target, explainer: Explainer, preprocessing: Preprocessing
) -> tuple[Check, ...]:
    few = few_of(len(x))
    checks = explainer.validate(work.model, x[few].detach().to(work.device), target.take(few), preprocessing)
    if checks:
        Validity(checks).require(_what(work.model, explainer))
    return checks


def _what(model: nn.Module, explainer: Explainer) -> str:
    return f"{type(explainer).__name__} of {model_name(model)}"


def _logits(
    model: nn.Module, images: ImageSet, x: Tensor, preprocessing: Preprocessing, store: AttributionStore | None
) -> Tensor:
    key = logits_key(model_key(model), content_hash(x)) if store is not None else None
    if store is not None and (found := store.find_logits(key)) is not None:
        return found
    logits = predict_logits(model, images, preprocessing)
    if store is not None:
        store.keep_logits(key, logits)
    return logits

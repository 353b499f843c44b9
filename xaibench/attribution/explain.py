"""Explain the images of a pair, or of one model, and check the explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer, Maps
from xaibench.attribution.batch_size import Room, choose_room
from xaibench.attribution.checks import Check, Validity, map_checks
from xaibench.attribution.explainers import EXPLAINERS, as_explainer, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.attribution.store.keys import attribution_key, logits_key, model_key, versions_of
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import Target, make_target
from xaibench.attribution.working_copy import CHECK_IMAGES, Prepared, check_input, few_of, model_name, prepare
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import uncompiled
from xaibench.models.pair import ModelPair
from xaibench.models.predict import as_device, predict_logits
from xaibench.precision import full_precision
from xaibench.progress import progress
from xaibench.validation import checked

__all__ = ["EXPLAINERS", "PairAttribution", "check_explainable", "explain", "explain_model", "parse_explainer"]

_LEFT_OUT = Check("checks left out", 1, 0, False, "explained with check=False")


@checked(error=ExplanationError)
@torch.inference_mode(False)
@full_precision()
def explain_model(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: Explainer | str,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str | None = None,
    memory: int | None = None,
    batch_size: int | None = None,
    on_batch: Callable[[int], object] = lambda _: None,
    check: bool = True,
    store: AttributionStore | None = None,
) -> Attribution:
    """Explain z_y - z_r of every image and check the explanation.

    Works on a copy in evaluation mode: the model's weights, buffers, hooks, modes and device are never touched.
    Computes in float32 without TF32 and without autocast, or in float64 where the model's weights are float64.

    x           (N, C, H, W) normalised images (`preprocessing(images)`)
    explainer   LRP(), ... or a text ("lrp:gamma=0.5", see `parse_explainer`)
    device      where the copy works; None: where the model is (the CPU for one on mps, which has no float64)
    memory      bytes that activations may take: how many inputs the model sees at once follows from what a forward pass
                of it writes (see `choose_points`). None: 1 GiB
    batch_size  inputs that the model sees at once, in place of `memory`
    on_batch    called after each batch with the number of images in it
    check       True: the explainer's checks run first, on up to 4 images spread over x (fewer where `memory` has no
                room for them), and an explanation that does not pass raises. False: nothing is refused, and the result
                says it is not valid.
    store       where results are kept: what is there already is returned without a call of the model. Nothing is
                kept of models that hold what cannot be told apart (see `keys.model_key`)

    Raises ExplanationError for input that cannot be explained and for explanations that fail their checks,
    ConfigError for an unknown explainer, device or option.
    """
    model, explainer = uncompiled(model), as_explainer(explainer)
    device = as_device(device)
    _check_at_least_one(memory=memory, batch_size=batch_size)
    check_input(model, x, target, preprocessing)
    explainer.check_input(x, preprocessing)
    weights, inputs = state_hash(model), content_hash(x)
    key: str | None = None
    if store is not None and (known := model_key(model, weights, device)) is not None:
        key = attribution_key(known, inputs, target, explainer, preprocessing, check=check)
        if (found := store.find(key)) is not None:
            on_batch(len(x))
            return found
    work = prepare(model, x, target, device)
    first = work.inputs(x[:1])
    written = explainer.written(work.model, first, preprocessing, work.image_bytes)
    room, size = choose_room(written, first.nbytes, explainer.kept, memory, batch_size)
    few = room.points if batch_size is None else CHECK_IMAGES
    checks = _checked(work, x, target, explainer, preprocessing, few) if check else (_LEFT_OUT,)
    maps = _maps(work, x, target, explainer, preprocessing, room, size, on_batch)
    judged, flagged = explainer.judge(maps.measured)
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
        measured=maps.measured,
    )
    if store is not None:
        store.keep(key, attribution)
    return attribution


class PairAttribution(NamedTuple):
    """The same question about the same images, answered by both models of a pair."""

    teacher: Attribution
    student: Attribution


@checked(error=ExplanationError)
@full_precision()
def explain(
    pair: ModelPair,
    images: ImageSet,
    explainer: Explainer | str = "lrp",
    *,
    contrast: str = "teacher",
    device: torch.device | str | None = None,
    memory: int | None = None,
    check: bool = True,
    store: AttributionStore | None = None,
) -> PairAttribution:
    """Explain z_y - z_r of every image under teacher and student; y is the label.

    images    with labels
    contrast  "teacher": r is the teacher's runner-up for both; "own": each model's own, as in arXiv 2601.05913
    store     where maps and logits are kept: a second look makes no call of either model

    Other arguments as for `explain_model`. Neither model is moved: copies work on `device`.

    Raises ExplanationError where either explanation does not pass its checks.
    """
    if images.classes != pair.classes:
        raise ExplanationError(
            f"the images' classes are {list(images.classes)} but the pair's are {list(pair.classes)}: "
            "load the images with the pair's classes"
        )
    explainer = as_explainer(explainer)
    device = as_device(device)
    _check_at_least_one(memory=memory)
    x = pair.preprocessing(images.images)
    models = {"teacher": pair.teacher, "student": pair.student}
    logits = {name: _logits(model, images, x, pair.preprocessing, device, store) for name, model in models.items()}
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
                device=device,
                memory=memory,
                on_batch=advance,
                check=check,
                store=store,
            )
    return PairAttribution(**parts)


@checked(error=ExplanationError)
@torch.inference_mode(False)
@full_precision()
def check_explainable(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: Explainer | str,
    preprocessing: Preprocessing,
    *,
    device: torch.device | str | None = None,
) -> tuple[Check, ...]:
    """Run the checks that `explain_model` makes before it explains anything: is the method valid for this network?

    Raises ExplanationError where it is not. Arguments as in `explain_model`; up to 4 images spread over x are used.
    """
    model, explainer = uncompiled(model), as_explainer(explainer)
    check_input(model, x, target, preprocessing)
    explainer.check_input(x, preprocessing)
    return _checked(prepare(model, x, target, as_device(device)), x, target, explainer, preprocessing, CHECK_IMAGES)


def _check_at_least_one(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}: give a whole number")


def _maps(
    work: Prepared,
    x: Tensor,
    target: Target,
    explainer: Explainer,
    preprocessing: Preprocessing,
    room: Room,
    size: int,
    on_batch: Callable[[int], object],
) -> Maps:
    """All maps on the CPU, `size` images at a time."""
    batches: list[Maps] = []
    for part in torch.arange(len(x)).split(size):
        maps = explainer.attribute(work.model, work.inputs(x[part]), target.take(part), preprocessing, room)
        references = {name: value.float().cpu() for name, value in maps.references.items()}
        batches.append(Maps(maps.relevance.float().cpu(), references, maps.measured))
        on_batch(len(part))
    return Maps(
        torch.cat([maps.relevance for maps in batches]),
        {name: _joined([maps.references[name] for maps in batches]) for name in batches[0].references},
        {name: torch.cat([maps.measured[name] for maps in batches]) for name in batches[0].measured},
    )


def _joined(references: list[Tensor]) -> Tensor:
    first = references[0]
    shared = all(len(value) == 1 and torch.equal(value, first) for value in references)
    return first if shared else torch.cat(references)


def _checked(
    work: Prepared, x: Tensor, target: Target, explainer: Explainer, preprocessing: Preprocessing, most: int
) -> tuple[Check, ...]:
    few = few_of(len(x), most)
    checks = explainer.validate(work.model, work.inputs(x[few]), target.take(few), preprocessing)
    if checks:
        Validity(checks).require(_what(work.model, explainer))
    return checks


def _what(model: nn.Module, explainer: Explainer) -> str:
    return f"{type(explainer).__name__} of {model_name(model)}"


def _logits(
    model: nn.Module,
    images: ImageSet,
    x: Tensor,
    preprocessing: Preprocessing,
    device: torch.device | None,
    store: AttributionStore | None,
) -> Tensor:
    known = None if store is None else model_key(model, device=device)
    key = None if known is None else logits_key(known, content_hash(x))
    if store is not None and (found := store.find_tensor(key)) is not None:
        return found
    logits = predict_logits(model, images, preprocessing, device=device)
    if store is not None:
        store.keep_tensor(key, logits)
    return logits

"""Explain a run's test images under every model. Maps are kept under the key of all that they depend on."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from xaibench.attribution.explain import check_explainable, explain_model, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.attribution.store.keys import attribution_key, model_key
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.targets import make_target
from xaibench.data.images import ImageSet
from xaibench.errors import ExplanationError
from xaibench.files import sweep_partials, write_json
from xaibench.models.checkpoints import state_hash
from xaibench.models.predict import predict_logits
from xaibench.progress import progress
from xaibench.run.config import RunConfig
from xaibench.run.costs import measure_costs
from xaibench.run.faithfulness import Subject, measure_faithfulness
from xaibench.run.folder import TEACHER, UNTRAINED, Run
from xaibench.run.inputs import Assets
from xaibench.similarity.patch_order import Order, patch_order
from xaibench.validation import checked

__all__ = ["check_models", "explain_models"]

_log = logging.getLogger(__name__)


def check_models(config: RunConfig, assets: Assets) -> None:
    """Run the validity checks on teacher and untrained student before hours are spent on training."""
    few = assets.task.test.sample(4, config.data.seed)
    x = assets.pair.preprocessing(few.images)
    target = make_target(predict_logits(assets.pair.teacher, few, assets.pair.preprocessing), few.labels)
    for explainer in config.explain.explainers:
        for model in (assets.pair.teacher, assets.student_pair(config.seeds[0]).student):
            check_explainable(model, x, target, parse_explainer(explainer), assets.pair.preprocessing)


@checked
def explain_models(run: Run, assets: Assets, device: torch.device | str | None = None) -> None:
    """Explain the chosen test images under every model; write the whole test set's predictions, validity, faithfulness.

    What is in the run's store already, of the same weights, images and question, is not computed again.

    device  where models are run, in copies; None: where they are
    """
    config, pair = run.config, assets.pair
    sweep_partials(run.store.folder)
    images = assets.task.test.sample(config.explain.images, config.data.seed)
    models: dict[str, nn.Module] = {TEACHER: pair.teacher, **{name: run.student(name) for name in run.students}}
    models[UNTRAINED] = assets.student_pair(max(config.seeds) + 1).student.eval()
    logits = {}
    with progress("test set", len(models)) as advance:
        for name, model in models.items():
            logits[name] = predict_logits(model, assets.task.test, pair.preprocessing, device=device)
            advance(note=name)
    position = {key: i for i, key in enumerate(assets.task.test.keys)}
    rows = torch.tensor([position[key] for key in images.keys])
    subjects = []
    for name, model in models.items():
        target = make_target(
            logits[TEACHER][rows], images.labels, contrast=config.explain.contrast, logits_own=logits[name][rows]
        )
        weights = state_hash(model)
        # a run's architecture is fixed by its configuration
        known = model_key(model, weights, device) or f"{name}:{weights}"
        subjects.append(Subject(name, model, known, target))
    x = run.preprocessing(images.images)
    inputs = content_hash(x)
    found: dict[str, dict[str, dict[str, str]]] = {}
    orders: dict[Subject, dict[str, Order]] = {subject: {} for subject in subjects if subject.name != UNTRAINED}
    checks: list[dict[str, Any]] = []
    for explainer in run.explainers:
        found[explainer] = {}
        for subject in subjects:
            name = subject.name
            about = {"model": name, "explainer": explainer}
            try:
                key, attribution = _explained(run, subject, x, inputs, explainer, device)
            except ExplanationError as error:
                if name == TEACHER:
                    raise
                _log.warning("%s has no valid explanation and gets no score: %s", name, error)
                found[explainer][name] = {"refused": str(error)}
                refused = {"check": "refused", "value": None, "bound": None, "passed": False, "note": str(error)}
                checks.append(about | refused)
                continue
            found[explainer][name] = {"key": key}
            if subject in orders:
                orders[subject][explainer] = patch_order(attribution.scored_heatmaps)
            checks += [
                {**about, "check": c.name, "value": c.value, "bound": c.bound, "passed": c.passed, "note": c.note}
                for c in attribution.validity.checks
            ]
    faithfulness = measure_faithfulness(run, images, orders, device)
    run.save_images(images)
    run.write_tables(
        predictions=_predictions(logits, assets.task.test), validity=pd.DataFrame(checks), faithfulness=faithfulness
    )
    write_json(run.folder / "explanations.json", found)
    run.ledger.record("explanations.json", source=run.source("explain"))
    measure_costs(run, assets)


def _explained(
    run: Run, subject: Subject, x: Tensor, inputs: str, text: str, device: torch.device | str | None
) -> tuple[str, Attribution]:
    """The key of a model's maps, and the maps: from the store, or computed and kept there."""
    explainer, model, target = parse_explainer(text), subject.model, subject.target
    key = attribution_key(subject.key, inputs, target, explainer, run.preprocessing, check=True)
    attribution = run.store.find(key)
    if attribution is None:
        with progress(f"{text} of {subject.name}", len(x)) as advance:
            attribution = explain_model(model, x, target, explainer, run.preprocessing, device=device, on_batch=advance)
        attribution.save(run.store.path_of(key))  # unlike `keep`, this says if the disk is full
    return key, attribution


def _predictions(logits: dict[str, Tensor], test: ImageSet) -> pd.DataFrame:
    parts = []
    for name, values in logits.items():
        confidence, predicted = values.softmax(1).max(1)
        parts.append(
            pd.DataFrame(
                {
                    "model": name,
                    "image": test.keys,
                    "label": [test.classes[i] for i in test.labels.tolist()],
                    "predicted": [test.classes[i] for i in predicted.tolist()],
                    "confidence": confidence.double().numpy().round(6),
                    "correct": (predicted == test.labels).numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)

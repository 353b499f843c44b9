"""Explain a run's test images under every model. Maps are kept under the key of all that they depend on."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from xaibench.attribution.explain import check_explainable, explain_model, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.attribution.store.keys import attribution_key, logits_key, model_key
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
from xaibench.run.outputs import save_outputs
from xaibench.similarity.patch_order import Order, patch_order
from xaibench.validation import checked

__all__ = ["check_models", "explain_ahead", "explain_models"]

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
    sweep_partials(run.store.folder)
    asked = _Asked(run, assets, device)
    models = {name: asked.model(name) for name in run.models}
    with progress("test set", len(models)) as advance:
        for name, model in models.items():
            asked.logits(name, model)
            advance(note=name)
    subjects = [asked.subject(name, model) for name, model in models.items()]
    found: dict[str, dict[str, dict[str, str]]] = {}
    orders: dict[Subject, dict[str, Order]] = {subject: {} for subject in subjects if subject.name != UNTRAINED}
    checks: list[dict[str, Any]] = []
    for explainer in run.explainers:
        found[explainer] = {}
        for subject in subjects:
            name = subject.name
            about = {"model": name, "explainer": explainer}
            try:
                key, attribution = asked.explained(subject, explainer)
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
    faithfulness = measure_faithfulness(run, asked.images, orders, device)
    logits, test = {name: asked.logits(name, model) for name, model in models.items()}, assets.task.test
    run.save_images(asked.images)
    run.write_tables(predictions=_predictions(logits, test), validity=pd.DataFrame(checks), faithfulness=faithfulness)
    save_outputs(run, logits, test.labels)
    write_json(run.folder / "explanations.json", found)
    run.ledger.record("explanations.json", source=run.source("explain"))
    measure_costs(run, assets)


def explain_ahead(run: Run, assets: Assets, name: str, device: torch.device | str | None = None) -> None:
    """Put into the run's store all that `explain_models` will ask of one model, and write nothing else.

    So the models of a run can be explained beside each other, before there are all of them.
    """
    asked = _Asked(run, assets, device)
    subject = asked.subject(name, asked.model(name))
    orders = {}
    for explainer in run.explainers:
        try:
            orders[explainer] = patch_order(asked.explained(subject, explainer)[1].scored_heatmaps)
        except ExplanationError:
            if name == TEACHER:
                raise
    if name != UNTRAINED:
        measure_faithfulness(run, asked.images, {subject: orders}, device)


class _Asked:
    """The images of a run, and what each model is asked about them; answers are kept in the run's store."""

    def __init__(self, run: Run, assets: Assets, device: torch.device | str | None) -> None:
        self.run, self.assets, self.device = run, assets, device
        self.images = assets.task.test.sample(run.config.explain.images, run.config.data.seed)
        position = {key: i for i, key in enumerate(assets.task.test.keys)}
        self._rows = torch.tensor([position[key] for key in self.images.keys])
        self._x = run.preprocessing(self.images.images)
        self._inputs = content_hash(self._x)
        self._test = f"{assets.task.test.content_hash()} {run.preprocessing!r}"
        self._logits: dict[str, Tensor] = {}
        self._keys: dict[str, str] = {}

    def model(self, name: str) -> nn.Module:
        """The teacher, a trained student, or the untrained one."""
        if name == TEACHER:
            return self.assets.pair.teacher
        if name == UNTRAINED:
            return self.assets.student_pair(max(self.run.config.seeds) + 1).student.eval()
        return self.run.student(name)

    def logits(self, name: str, model: nn.Module) -> Tensor:
        """Of the whole test set (N, K)."""
        if name not in self._logits:
            key = logits_key(self._known(name, model), self._test)
            found = self.run.store.find_tensor(key)
            if found is None:
                found = predict_logits(model, self.assets.task.test, self.run.preprocessing, device=self.device)
                self.run.store.keep_tensor(key, found)
            self._logits[name] = found
        return self._logits[name]

    def subject(self, name: str, model: nn.Module) -> Subject:
        """The model with its question: the label, against the runner-up that the configuration names."""
        teacher = self.logits(TEACHER, self.assets.pair.teacher)[self._rows]
        own = self.logits(name, model)[self._rows]
        contrast = self.run.config.explain.contrast
        target = make_target(teacher, self.images.labels, contrast=contrast, logits_own=own)
        return Subject(name, model, self._known(name, model), target)

    def explained(self, subject: Subject, text: str) -> tuple[str, Attribution]:
        """The key of a model's maps, and the maps."""
        run, explainer, model, target = self.run, parse_explainer(text), subject.model, subject.target
        key = attribution_key(subject.key, self._inputs, target, explainer, run.preprocessing, check=True)
        attribution = run.store.find(key)
        if attribution is None:
            with progress(f"{text} of {subject.name}", len(self._x)) as advance:
                attribution = explain_model(
                    model, self._x, target, explainer, run.preprocessing, device=self.device, on_batch=advance
                )
            attribution.save(run.store.path_of(key))  # unlike `keep`, this says if the disk is full
        return key, attribution

    def _known(self, name: str, model: nn.Module) -> str:
        if name not in self._keys:
            weights = state_hash(model)
            # a run's architecture is fixed by its configuration
            self._keys[name] = model_key(model, weights, self.device) or f"{name}:{weights}"
        return self._keys[name]


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

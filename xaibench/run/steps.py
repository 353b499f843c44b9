"""The steps of a run, each of which skips what the folder already holds: distil, explain, score."""

from __future__ import annotations

import dataclasses
import logging
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaibench.attribution.explain import check_explainable, explain_model, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import ImageSet
from xaibench.distillation.criterion import Setting
from xaibench.distillation.distill import distill, measure_moments
from xaibench.distillation.methods import StudentOnly, parse_method
from xaibench.errors import ExplanationError
from xaibench.figures.influence import influence_figure
from xaibench.figures.style import save_figure
from xaibench.files import write_json, write_text
from xaibench.models.checkpoints import save_checkpoint, state_hash
from xaibench.models.predict import predict_logits
from xaibench.progress import progress
from xaibench.run.config import RunConfig
from xaibench.run.folder import UNTRAINED, Run, library_versions
from xaibench.run.inputs import Assets, explained_images
from xaibench.run.tables import method_table, summarise
from xaibench.similarity.compare import compare
from xaibench.similarity.metrics.table import pool
from xaibench.subspace.moments import load_moments, save_moments

__all__ = ["check_models", "check_trainable", "distill_students", "explain_models", "score_models"]

_log = logging.getLogger(__name__)

NO_TEACHER = StudentOnly.name


def check_trainable(config: RunConfig, assets: Assets) -> None:
    """Build every method on a few images, so that what does not fit is refused before anything is written."""
    pair = assets.student_pair(config.seeds[0])
    few = explained_images(assets.task.train, 16, config.data.seed)
    sample = pair.preprocessing(few.images[:2])
    measure = cache(partial(measure_moments, pair, few))
    for method in map(parse_method, config.methods):
        work = method.prepare(pair, config.seeds[0])
        own = measure if work.teacher is pair.teacher else partial(measure_moments, work, few)
        method.build(Setting(work, sample, own, few.labels, config.train.batch_size, config.train.epochs))
    pool(torch.zeros(1, *few.shape[1:]), config.similarity.grid)


def check_models(config: RunConfig, assets: Assets) -> None:
    """Run the validity checks on teacher and untrained student before hours are spent on training."""
    few = explained_images(assets.task.test, 4, config.data.seed)
    x = assets.pair.preprocessing(few.images)
    target = make_target(predict_logits(assets.pair.teacher, few, assets.pair.preprocessing), few.labels)
    for explainer in config.explain.explainers:
        for model in (assets.pair.teacher, assets.student_pair(config.seeds[0]).student):
            check_explainable(model, x, target, parse_explainer(explainer), assets.pair.preprocessing)


def distill_students(run: Run, assets: Assets, fabric: Fabric) -> None:
    """Train every student that has no checkpoint yet; an interrupted one goes on after its last epoch."""
    missing = [name for name in run.students if not run.student_path(name).is_file()]
    if not missing:
        return
    fabric.launch()
    measure = cache(partial(_moments, run, assets, fabric))
    for name in missing:
        method_text, _, seed_text = name.rpartition("/seed")
        method, seed = parse_method(method_text), int(seed_text)
        path = run.student_path(name)
        result = distill(
            assets.student_pair(seed),
            assets.task,
            method,
            run.config.train,
            seed=seed,
            measure=measure,
            folder=path.parent,
            fabric=fabric,
        )
        write_text(path.with_name("history.csv"), result.history.to_csv(index=False))
        about = {"method": repr(method), "seed": seed, "recipe": dataclasses.asdict(result.recipe)}
        about |= {"best_epoch": result.best_epoch, "validation_accuracy": result.validation_accuracy}
        about |= {
            "seconds": round(result.seconds, 2),
            "hashes": result.hashes,
            "training_seconds": round(float(result.history["seconds"].sum()), 2),
            "precision": fabric.strategy.precision.precision,
            "versions": library_versions(),
        }
        write_json(path.with_name("run.json"), about)
        save_checkpoint(path, result.student, assets.student_card(method=repr(method), seed=seed))
        path.with_name("resume.pt").unlink(missing_ok=True)
        if result.influence is not None:
            write_text(path.with_name("influence.csv"), result.influence.to_csv(index=False))
            figure = _influence_figure(result.influence, assets.task.train, name)
            save_figure(figure, path.with_name("influence"))


def explain_models(run: Run, assets: Assets) -> None:
    """Explain the chosen test images under every model; write predictions of the whole test set and validity."""
    config, pair = run.config, assets.pair
    images = explained_images(assets.task.test, config.explain.images, config.data.seed)
    run.save_images(images)
    models: dict[str, nn.Module] = {
        "teacher": pair.teacher,
        **{name: run.student(name) for name in run.students},
    }
    models[UNTRAINED] = assets.student_pair(max(config.seeds) + 1).student.eval()
    logits = {}
    with progress("test set", len(models)) as advance:
        for name, model in models.items():
            logits[name] = predict_logits(model, assets.task.test, pair.preprocessing)
            advance(note=name)
    write_text(run.folder / "predictions.csv", _predictions(logits, assets.task.test).to_csv(index=False))
    position = {key: i for i, key in enumerate(assets.task.test.keys)}
    rows = torch.tensor([position[key] for key in images.keys])
    checks = []
    for explainer in run.explainers:
        for name, model in models.items():
            target = make_target(
                logits["teacher"][rows],
                images.labels,
                contrast=config.explain.contrast,
                logits_own=logits[name][rows],
            )
            checks += _explain_one(run, images, name, model, explainer, target)
    write_text(run.folder / "validity.csv", pd.DataFrame(checks).to_csv(index=False))


def score_models(run: Run) -> None:
    """Score every student's maps against the teacher's; write scores, their summary and the table of methods."""
    similarity = run.config.similarity
    parts = []
    for explainer in run.explainers:
        teacher = run.attribution("teacher", explainer)
        untrained = _attribution_or_none(run, UNTRAINED, explainer)
        for name in run.students:
            student = _attribution_or_none(run, name, explainer)
            if student is None:
                continue
            report = compare(
                teacher,
                student,
                keys=run.images.keys,
                metrics=similarity.metrics,
                grid=similarity.grid,
                sign=similarity.sign,
                independent_student=_independent(run, name, explainer),
                random_student=untrained,
                seed=run.config.data.seed,
            )
            method, _, seed = name.rpartition("/seed")
            parts.append(report.rows.assign(method=method, seed=int(seed), explainer=explainer))
    if not parts:
        raise ExplanationError(f"no student of {run.folder} has a valid explanation: see {run.folder / 'validity.csv'}")
    columns = ["method", "seed", "explainer", "metric", "pairing", "image", "value"]
    scores = pd.concat(parts, ignore_index=True)[columns]
    summary = summarise(scores, report.grid, similarity.sign)
    table = method_table(run.config.methods, summary, run.predictions())
    write_text(run.folder / "scores.csv", scores.to_csv(index=False))
    write_text(run.folder / "summary.csv", summary.to_csv(index=False))
    write_text(run.folder / "table.csv", table.to_csv(index=False))


def _moments(run: Run, assets: Assets, fabric: Fabric):  # type: ignore[no-untyped-def]
    path = run.folder / "subspace.safetensors"
    if not path.is_file():
        pair = dataclasses.replace(assets.pair, teacher=assets.pair.teacher.to(fabric.device))
        save_moments(path, measure_moments(pair, assets.task.train, fabric))
    return load_moments(path)


def _influence_figure(influence: pd.DataFrame, train: ImageSet, name: str) -> Figure:
    return influence_figure(
        train.images,
        influence["weight"].to_numpy(),
        influence["label"].tolist(),
        scores=influence["influence"].to_numpy(),
        title=f"Influence of training images: {name}",
    )


def _explain_one(
    run: Run, images: ImageSet, name: str, model: nn.Module, explainer: str, target: Target
) -> list[dict[str, object]]:
    path = run.attribution_path(name, explainer)
    about = {"model": name, "explainer": explainer}
    attribution = _stored(path)
    wanted = (state_hash(model), parse_explainer(explainer))
    if (
        attribution is None
        or (attribution.model_hash, attribution.explainer) != wanted
        or not attribution.target.same_as(target)
    ):
        x = run.preprocessing(images.images)
        with progress(f"{explainer} of {name}", len(x)) as advance:
            try:
                attribution = explain_model(model, x, target, wanted[1], run.preprocessing, on_batch=advance)
            except ExplanationError as error:
                if name == "teacher":
                    raise
                _log.warning("%s has no valid explanation and gets no score: %s", name, error)
                return [
                    {
                        **about,
                        "check": "refused",
                        "value": None,
                        "bound": None,
                        "passed": False,
                        "note": str(error),
                    }
                ]
        attribution.save(path)
    rows = [
        {**about, "check": c.name, "value": c.value, "bound": c.bound, "passed": c.passed, "note": c.note}
        for c in attribution.validity.checks
    ]
    return rows


def _stored(path: Path) -> Attribution | None:
    try:
        return Attribution.load(path) if path.is_file() else None
    except ExplanationError as error:
        _log.warning("explaining again: %s", error)
        return None


def _attribution_or_none(run: Run, name: str, explainer: str) -> Attribution | None:
    return run.attribution(name, explainer) if run.attribution_path(name, explainer).is_file() else None


def _independent(run: Run, name: str, explainer: str) -> Attribution | None:
    """The student of the same seed that was trained without the teacher, the null of all others."""
    method, _, seed = name.rpartition("/seed")
    if method == NO_TEACHER or NO_TEACHER not in run.config.methods:
        return None
    return _attribution_or_none(run, f"{NO_TEACHER}/seed{seed}", explainer)


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

"""Train the students of a run: a list of jobs, each of which writes its own folder only."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from matplotlib.figure import Figure
from torch import Tensor

from xaibench.attribution.store.keys import model_key, training_logits_key
from xaibench.data.images import ImageSet
from xaibench.distillation.criterion import Setting
from xaibench.distillation.distill import distill, make_fabric, measure_moments
from xaibench.distillation.methods import parse_method
from xaibench.distillation.teacher_cache import Remember, compute_afresh
from xaibench.errors import CheckpointError, RunFolderError
from xaibench.figures.influence import influence_figure
from xaibench.figures.style import save_figure
from xaibench.files import sweep_partials, write_text
from xaibench.models.checkpoints import save_checkpoint
from xaibench.models.trial import check_free
from xaibench.run.config import RunConfig
from xaibench.run.folder import Run
from xaibench.run.inputs import Assets, assets_of
from xaibench.run.job import Job, StudentFolder
from xaibench.run.ledger import Ledger, digest
from xaibench.run.manifest import asset_hashes, library_versions, read_manifest
from xaibench.run.siblings import siblings
from xaibench.similarity.metrics.table import pool
from xaibench.subspace.moments import LayerMoments, load_moments, save_moments
from xaibench.validation import checked

__all__ = ["Moments", "check_trainable", "distill_students", "shared_logits", "shared_moments", "train"]

_log = logging.getLogger(__name__)

Moments = Callable[[], Mapping[str, LayerMoments]]
"""Gives the moments of the teacher's layers; called where a method needs them."""


@checked
def train(
    job: Job,
    folder: Path,
    *,
    assets: Assets | None = None,
    moments: Moments | None = None,
    remember: Remember = compute_afresh,
    fabric: Fabric | None = None,
) -> StudentFolder:
    """Train the student of `job` into `folder`, or leave it as it is where it is there, whole.

    A killed training goes on after its last epoch; a damaged student is trained again.

    assets    what the job works on, where it is loaded already
    moments   of the teacher's layers, shared by many jobs; None: measured for this job
    remember  keeps the teacher's logits for other jobs, see `distill`
    fabric    None: one for the recipe, on the best device
    """
    kept = StudentFolder(folder)
    kept.begin()
    if not kept.trouble:
        return kept
    if kept.about_path.exists():
        _log.warning("%s: the student is trained again", kept.trouble)
        kept.about_path.unlink(missing_ok=True)
    sweep_partials(folder)
    assets = assets or assets_of(job.data, job.teacher, job.student)
    fabric = fabric or make_fabric(job.recipe)
    pair = assets.student_pair(job.seed)
    result = distill(
        pair,
        assets.task,
        job.method,
        job.recipe,
        seed=job.seed,
        measure=moments,
        remember=remember,
        folder=folder,
        fabric=fabric,
    )
    if fabric.is_global_zero:
        files = [kept.history, kept.checkpoint]
        write_text(kept.history, result.history.to_csv(index=False))
        card = assets.student_card(method=repr(job.method), seed=job.seed)
        save_checkpoint(kept.checkpoint, result.student, card)
        if result.influence is not None:
            influence = write_text(folder / "influence.csv", result.influence.to_csv(index=False))
            figure = _influence_figure(result.influence, assets.task.train, str(job.key))
            files += [influence, *save_figure(figure, folder / "influence")]
        about = {
            "method": repr(job.method),
            "seed": job.seed,
            "recipe": dataclasses.asdict(result.recipe),
            "best_epoch": result.best_epoch,
            "validation_accuracy": result.validation_accuracy,
            "seconds": round(result.seconds, 2),
            "training_seconds": round(float(result.history["seconds"].sum()), 2),
            "hashes": result.hashes,
            "precision": fabric.strategy.precision.precision,
            "memory_format": str(result.format),
            "versions": library_versions(),
        }
        kept.finish(about, [path.name for path in files])
        (folder / "resume.pt").unlink(missing_ok=True)
    return kept


def distill_students(run: Run, assets: Assets, fabric: Fabric) -> None:
    """Train every student that is not there yet; with several devices, all processes take part."""
    missing = {name: job for name, job in run.jobs.items() if run.student_folder(name).trouble}
    if not missing:
        return
    fabric.launch()
    moments = cache(partial(shared_moments, run, assets, fabric))
    remember = shared_logits(run, assets, fabric)
    for name, job in missing.items():
        folder = run.student_folder(name).folder
        train(job, folder, assets=assets, moments=moments, remember=remember, fabric=fabric)
        fabric.barrier()


def check_trainable(config: RunConfig, assets: Assets) -> bool:
    """Build every method on a few images, so that what does not fit is refused before anything is written.

    Returns whether a method needs the moments of the teacher's layers (`shared_moments`).
    """
    pair = assets.student_pair(config.seeds[0])
    check_free("student", pair.student)
    few = assets.task.train.sample(16, config.data.seed)
    sample = pair.preprocessing(few.images[:2])
    measure = cache(partial(measure_moments, pair, few))
    for method in map(parse_method, config.methods):
        work = method.prepare(pair, config.seeds[0])
        own = measure if work.teacher is pair.teacher else partial(measure_moments, work, few)
        method.build(Setting(work, sample, own, few.labels, config.train.batch_size, config.train.epochs))
    pool(torch.zeros(1, *few.shape[1:]), config.similarity.grid)
    return measure.cache_info().currsize > 0


def shared_moments(run: Run, assets: Assets, fabric: Fabric | None = None) -> Mapping[str, LayerMoments]:
    """The moments of the teacher's layers on the training images: those in the run's folder, or measured and kept."""
    name, hashes = "subspace.safetensors", asset_hashes(assets)
    source = digest(hashes["teacher"], hashes["train"], list(map(str, assets.pair.layers)))
    try:
        return load_moments(run.ledger.require(name, "distill", source))
    except (CheckpointError, RunFolderError) as error:
        if (run.folder / name).is_file():
            _log.warning("%s: the moments are measured again", error)
    moments = _lent_moments(run, name, source) or measure_moments(assets.pair, assets.task.train, fabric)
    if fabric is None or fabric.is_global_zero:
        save_moments(run.folder / name, moments)
        run.ledger.record(name, source=source)
    if fabric is not None:
        fabric.barrier()
    return load_moments(run.folder / name)


def shared_logits(run: Run, assets: Assets, fabric: Fabric) -> Remember:
    """Keeps the teacher's logits of training and validation images in the run's folder, which lends them to others."""
    teacher, store = model_key(assets.pair.teacher, device=fabric.device), run.teacher_store

    def remember(what: str, compute: Callable[[], Tensor]) -> Tensor:
        key = None if teacher is None else training_logits_key(teacher, what)
        if (found := store.find_tensor(key)) is not None:
            return found
        logits = compute()
        if fabric.is_global_zero:
            store.keep_tensor(key, logits)
        return logits

    return remember


def _lent_moments(run: Run, name: str, source: str) -> dict[str, LayerMoments] | None:
    """Those that another run of the study has measured on the same images, prepared alike, in the same precision."""
    for folder in siblings(run.folder):
        with contextlib.suppress(CheckpointError, RunFolderError):
            if _measured_alike(read_manifest(folder), run.manifest):
                return load_moments(Ledger(folder).require(name, "distill", source))
    return None


def _measured_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    asked = [(manifest["preprocessing"], manifest["config"]["train"]["precision"]) for manifest in (one, other)]
    return asked[0] == asked[1]


def _influence_figure(table: pd.DataFrame, train: ImageSet, name: str) -> Figure:
    return influence_figure(
        train.images,
        table["weight"].to_numpy(),
        table["label"].tolist(),
        scores=table["influence"].to_numpy(),
        title=f"Influence of training images: {name}",
    )

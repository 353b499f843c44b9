"""Facts about a run folder, a configuration, a checkpoint, or xaibench itself, for `xaibench info`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from xaibench.attribution.explainers import EXPLAINERS
from xaibench.data.datasets import DATASETS
from xaibench.data.subtasks import SUBTASKS
from xaibench.distill.methods import METHODS
from xaibench.distill.recipe import resolve_precision
from xaibench.errors import CheckpointError, RunFolderError
from xaibench.models.checkpoints import ModelCard, read_state
from xaibench.similarity.heatmaps import METRICS
from xaibench.study.assets import load_assets
from xaibench.study.config import RunConfig, presets
from xaibench.study.run import open_run
from xaibench.subspace.bases import BASES

__all__ = ["describe"]


def describe(target: Path | None) -> dict[str, Any]:
    """Name -> fact, in reading order. Raises RunFolderError for a path that is no run, configuration or checkpoint."""
    if target is None:
        return _names()
    if target.is_dir():
        return _run(target)
    if target.suffix == ".toml" or str(target) in presets():
        return _configuration(target)
    if target.is_file():
        return _checkpoint(target)
    raise RunFolderError(f"{target} does not exist: give a run folder, a configuration, a preset or a checkpoint")


def _names() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    facts: dict[str, Any] = {"device": device, "precision": resolve_precision("auto")}
    facts["datasets"] = ", ".join(DATASETS)
    facts |= {f"subtasks of {name}": ", ".join(groups) for name, groups in SUBTASKS.items()}
    tables: dict[str, Iterable[str]] = {
        "methods": METHODS,
        "bases": BASES,
        "explainers": EXPLAINERS,
        "metrics": METRICS,
        "presets": presets(),
    }
    return facts | {name: ", ".join(table) for name, table in tables.items()}


def _run(folder: Path) -> dict[str, Any]:
    run = open_run(folder)
    manifest = run.manifest
    done = [name for name in run.students if run.student_path(name).is_file()]
    return {
        "folder": str(folder),
        "started": manifest["started"],
        "finished": manifest.get("finished", "not yet"),
        "data": run.config.data.dataset,
        "classes": ", ".join(run.classes),
        "images": ", ".join(f"{count} {split}" for split, count in manifest["images"].items()),
        "teacher": f"{manifest['teacher']['architecture']}, weights {manifest['hashes']['teacher']}",
        "student": run.config.student.architecture,
        "layers": ", ".join(manifest["layers"]),
        "distilled": f"{len(done)} of {len(run.students)}: {', '.join(done)}",
        "explainers": ", ".join(run.explainers),
    }


def _configuration(path: Path) -> dict[str, Any]:
    config = RunConfig.load(path)
    assets = load_assets(config)
    splits = {"train": assets.task.train, "validation": assets.task.validation, "test": assets.task.test}
    _, height, width = assets.task.train.shape
    shapes = assets.pair.layer_shapes((height, width))
    return {
        "configuration": str(path),
        "data": config.data.dataset,
        "classes": ", ".join(assets.pair.classes),
        "images": ", ".join(f"{len(images)} {split}" for split, images in splits.items()) + f", {height}x{width}",
        "teacher": assets.card.architecture,
        "student": assets.architecture,
        "layers": ", ".join(f"{pair} ({_by(a)} : {_by(b)})" for pair, (a, b) in shapes.items()) or "none",
        "methods": ", ".join(config.methods),
        "explainers": ", ".join(config.explain.explainers),
    }


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _checkpoint(path: Path) -> dict[str, Any]:
    state, metadata = read_state(path)
    facts: dict[str, Any] = {
        "file": str(path),
        "tensors": len(state),
        "values": sum(v.numel() for v in state.values()),
        "type": ", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in state.values()})),
    }
    if metadata is None:
        return facts | {"card": "none: give architecture, classes, mean and std to load it"}
    try:
        card = ModelCard.from_json(metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has an unreadable model card ({error}): save it again") from error
    facts |= {"architecture": card.architecture, "classes": ", ".join(card.classes)}
    return facts | {"preprocessing": card.preprocessing} | card.notes

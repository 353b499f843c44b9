"""Facts about a run folder, a configuration, a checkpoint, or xaibench itself, for `xaibench info`.

What only one of them needs is imported there: names are listed without pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaibench.attribution.baselines import BASELINES
from xaibench.attribution.explainers import EXPLAINERS
from xaibench.data.cue_kinds import CUES
from xaibench.data.datasets import DATASETS
from xaibench.data.subtasks import SUBTASKS
from xaibench.distillation.methods import METHODS, Method, method_name
from xaibench.distillation.methods.sources import SOURCES
from xaibench.distillation.methods.wrapped import Wrapped
from xaibench.distillation.recipe import resolve_precision
from xaibench.errors import CheckpointError, RunFolderError
from xaibench.models.checkpoints import ModelCard, load_checkpoint, read_state
from xaibench.models.imagenet import INSTALLED
from xaibench.options import format_options
from xaibench.run.config import RunConfig, presets
from xaibench.similarity.fills import FILLS
from xaibench.similarity.metrics.table import METRICS
from xaibench.similarity.patch_order import patch_side
from xaibench.subspace.bases import BASES

if TYPE_CHECKING:
    from xaibench.run.inputs import Assets

__all__ = ["describe", "plan"]

_CLASSES = 100  # as many names are listed in full


def describe(target: Path | None) -> dict[str, Any]:
    """Name -> fact, in reading order. Raises RunFolderError for a path that is no run, configuration or checkpoint."""
    if target is None:
        return _names()
    if str(target).startswith("installed:"):
        return _installed(target)
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
    return facts | {
        "methods": [_options(method) for method in METHODS.values()],
        "sources": [f"{name}: {source.plain.citation}" for name, source in SOURCES.items() if source.citation],
        "bases": ", ".join(BASES),
        "explainers": [format_options(explainer(), full=True) for explainer in EXPLAINERS.values()],
        "baselines": [f"{name}: {what}" for name, what in BASELINES.items()],
        "metrics": ", ".join(METRICS),
        "fills": [f"{name}: {what}" for name, what in FILLS.items()],
        "cues": [format_options(cue(), full=True) for cue in CUES.values()],
        "presets": ", ".join(presets()),
        "presets of studies": ", ".join(presets("xaibench.study")),
        "checkpoints": [f"installed:{name} ({one.architecture} from {one.package})" for name, one in INSTALLED.items()],
    }


def _options(method: type[Method]) -> str:
    made = method()
    if not isinstance(made, Wrapped):
        return format_options(made, full=True)
    name, colon, rest = format_options(made, full=True, without=("method",)).partition(":")
    return f"{name}[{method_name(made.method)}]{colon}{rest}"


def _run(folder: Path) -> dict[str, Any]:
    from xaibench.run.folder import open_run

    run = open_run(folder)
    manifest = run.manifest
    done = [name for name in run.students if run.student_path(name).is_file()]
    return {
        "folder": str(folder),
        "started": manifest["started"],
        "finished": "yes" if run.finished else "not yet",
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
    from xaibench.run.inputs import load_assets

    config = RunConfig.load(path)
    return {"configuration": str(path)} | plan(config, load_assets(config))


def plan(config: RunConfig, assets: Assets) -> dict[str, Any]:
    """What a run of a configuration would do."""
    splits = {"train": assets.task.train, "validation": assets.task.validation, "test": assets.task.test}
    _, height, width = assets.task.train.shape
    shapes = assets.pair.layer_shapes((height, width))
    side = patch_side(height, width)
    return {
        "data": config.data.dataset,
        "classes": ", ".join(assets.pair.classes),
        "images": ", ".join(f"{len(images)} {split}" for split, images in splits.items()) + f", {height}x{width}",
        "teacher": assets.card.architecture,
        "student": assets.student.architecture,
        "layers": ", ".join(f"{pair} ({_by(a)} : {_by(b)})" for pair, (a, b) in shapes.items()) or "none",
        "methods": ", ".join(config.methods),
        "students": f"{len(config.methods) * len(config.seeds)}, of {config.train.epochs} epochs each",
        "explainers": ", ".join(config.explain.explainers),
        "faithfulness": f"{side + 1} passes an image in each order of {side}x{side} patches: the explainers', 2 random",
    }


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _installed(name: Path) -> dict[str, Any]:
    model, card = load_checkpoint(name)
    return _weights(name, model.state_dict()) | _card(card)


def _checkpoint(path: Path) -> dict[str, Any]:
    state, metadata, _ = read_state(path)
    facts = _weights(path, state)
    if metadata is None:
        return facts | {"card": "none: give architecture, classes, mean and std to load it"}
    try:
        card = ModelCard.from_json(metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has an unreadable model card ({error}): save it again") from error
    return facts | _card(card)


def _weights(path: Path, state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "file": str(path),
        "tensors": len(state),
        "values": sum(v.numel() for v in state.values()),
        "type": ", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in state.values()})),
    }


def _card(card: ModelCard) -> dict[str, Any]:
    shown = card.classes if len(card.classes) <= _CLASSES else (*card.classes[:3], f"... ({len(card.classes)} in all)")
    facts = {"architecture": card.architecture, "classes": ", ".join(shown)}
    return facts | {"preprocessing": card.preprocessing} | card.notes

"""The main job: configuration -> run folder with students, heatmaps, scores, figures and report; resumable."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from xaibench.distillation.distill import make_fabric
from xaibench.distillation.recipe import resolve_precision
from xaibench.errors import RunFolderError
from xaibench.files import write_json
from xaibench.models.checkpoints import state_hash
from xaibench.models.predict import predict_logits
from xaibench.run.config import RunConfig
from xaibench.run.folder import Run, library_versions, open_run
from xaibench.run.inputs import Assets, load_assets
from xaibench.run.page import present
from xaibench.run.steps import check_models, check_trainable, distill_students, explain_models, score_models

__all__ = ["create_run", "reopen", "run_study"]

_EXTENSIBLE = ("methods", "seeds", "explain", "similarity")


def run_study(
    config: RunConfig | str | Path,
    folder: Path | str,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    extend: bool = False,
) -> Run:
    """Distil, explain, score and report into `folder`; what is already there is kept, so that a killed run resumes.

    config  a RunConfig, a TOML file or the name of a preset ("demo")
    extend  the folder may hold a run that differs in methods, seeds, explanations and scores: its students are kept

    Raises RunFolderError for a folder with other contents or a run of another configuration.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.load(config)
    fabric = make_fabric(config.train, accelerator, devices, launch=False)
    run, assets = create_run(config, folder, extend=extend)
    distill_students(run, assets, fabric)
    explain_models(run, assets)
    score_models(run)
    present(run)
    if not run.manifest.get("finished"):
        run.note(finished=_now())
    return run


def create_run(
    config: RunConfig, folder: Path | str, *, extend: bool = False, check: Callable[[Assets], object] | None = None
) -> tuple[Run, Assets]:
    """Make the run folder, or reopen it where it holds the same configuration; load and check what it works on.

    extend  the folder's configuration may differ in what a single student's training does not depend on
    check   raises for assets that the caller cannot use, before anything is written
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another run folder")
    if (folder / "manifest.json").is_file():
        old, new = open_run(folder).config.to_dict(), config.to_dict()
        if extend:
            old |= {key: new[key] for key in _EXTENSIBLE}
        different = _first_difference(old, new)
        if different:
            remedy = "choose another folder"
            if not extend and different.split(" ")[0].split(".")[0] in _EXTENSIBLE:
                remedy += ", or add --extend to keep its students"
            raise RunFolderError(f"{folder} holds a run with another configuration ({different}): {remedy}")
        if open_run(folder).config == config:
            return reopen(Run(folder, config))
        run, assets = reopen(Run(folder, config))
        _check(config, assets, check)
        earlier = run.manifest
        extended = {"when": _now(), "command": _command(), "versions": library_versions()}
        run.note(config=new, extended=[*earlier.get("extended", []), extended], finished=None)
        return run, assets
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and holds no run: choose another folder")
    assets = load_assets(config)
    _check(config, assets, check)
    write_json(folder / "manifest.json", _manifest(config, assets))
    return Run(folder, config), assets


def reopen(run: Run) -> tuple[Run, Assets]:
    """Load what an existing run works on, and make sure that teacher, data and preprocessing are still the same."""
    assets = load_assets(run.config)
    manifest = run.manifest
    for name, value in _hashes(assets).items():
        if manifest["hashes"].get(name) != value:
            raise RunFolderError(
                f"the {name} of {run.folder} changed since the run began: restore it or start in another folder"
            )
    layers = list(map(str, assets.pair.layers))
    if manifest["layers"] != layers:
        raise RunFolderError(
            f"{run.folder} pairs the layers {', '.join(manifest['layers'])}, now {', '.join(layers)} would be paired: "
            "give student.layers as they were, or start in another folder"
        )
    if run.preprocessing != assets.pair.preprocessing:
        raise RunFolderError(
            f"{run.folder} was made with {run.preprocessing}, the teacher now asks for {assets.pair.preprocessing}: "
            "start in another folder"
        )
    return run, assets


def _check(config: RunConfig, assets: Assets, further: Callable[[Assets], object] | None) -> None:
    if further:
        further(assets)
    check_trainable(config, assets)
    check_models(config, assets)


def _manifest(config: RunConfig, assets: Assets) -> dict[str, Any]:
    pair, task = assets.pair, assets.task
    logits = predict_logits(pair.teacher, task.validation, pair.preprocessing)
    return {
        "xaibench": library_versions()["xaibench"],
        "started": _now(),
        "command": _command(),
        "classes": list(pair.classes),
        "layers": [str(layer) for layer in pair.layers],
        "preprocessing": dataclasses.asdict(pair.preprocessing),
        "images": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        "teacher": {"architecture": assets.card.architecture, "classes": len(assets.card.classes)},
        "teacher_validation_accuracy": (logits.argmax(1) == task.validation.labels).double().mean().item(),
        "hashes": _hashes(assets),
        "precision": resolve_precision(config.train.precision),
        "versions": library_versions(),
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
        },
        "config": config.to_dict(),
    }


def _hashes(assets: Assets) -> dict[str, str]:
    task = assets.task
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return {"teacher": state_hash(assets.pair.teacher), **{k: v.content_hash() for k, v in splits.items()}}


def _first_difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str:
    for key in new:
        a, b = _plain(old.get(key)), _plain(new[key])
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _first_difference(a, b, f"{where}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{where}{key} was {a!r}, now {b!r}"
    return ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _command() -> str:
    return " ".join(["xaibench", *sys.argv[1:]])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

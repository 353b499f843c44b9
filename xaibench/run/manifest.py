"""The manifest of a run: what it was asked for and with what, written when it begins."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from xaibench.errors import RunFolderError
from xaibench.files import write_json
from xaibench.models.checkpoints import state_hash
from xaibench.models.predict import predict_logits
from xaibench.run.config import RunConfig
from xaibench.run.inputs import Assets

__all__ = ["asset_hashes", "extend_manifest", "library_versions", "read_manifest", "write_manifest"]

_LIBRARIES = ("xaibench", "torch", "torchvision", "captum", "zennit", "lightning-fabric", "numpy")
_KEYS = ("config", "started", "classes", "layers", "preprocessing", "images", "teacher", "hashes")


def library_versions() -> dict[str, str]:
    """Of xaibench and of what its numbers depend on."""
    return {name: version(name) for name in _LIBRARIES}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder. Raises RunFolderError where there is none, or a damaged one."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise RunFolderError(f"no run in {folder} (it has no manifest.json): make one with 'xaibench run'")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _KEYS if key not in manifest]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is corrupt ({error}): start again in another folder") from error
    if missing or not isinstance(manifest, dict):
        raise RunFolderError(f"{path} is not the manifest of a run (no '{missing[0]}'): start again in another folder")
    return manifest


def write_manifest(folder: Path, config: RunConfig, assets: Assets) -> None:
    """Begin a run."""
    pair, task = assets.pair, assets.task
    logits = predict_logits(pair.teacher, task.validation, pair.preprocessing)
    manifest = {
        "xaibench": version("xaibench"),
        "started": _now(),
        "command": _command(),
        "classes": list(pair.classes),
        "layers": [str(layer) for layer in pair.layers],
        "preprocessing": dataclasses.asdict(pair.preprocessing),
        "images": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        "teacher": {"architecture": assets.card.architecture, "classes": len(assets.card.classes)},
        "teacher_validation_accuracy": (logits.argmax(1) == task.validation.labels).double().mean().item(),
        "hashes": asset_hashes(assets),
        "versions": library_versions(),
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "config": config.to_dict(),
    }
    write_json(folder / "manifest.json", manifest)


def extend_manifest(folder: Path, config: RunConfig) -> None:
    """Give a run another configuration; what was asked for before, and when, stays on record."""
    manifest = read_manifest(folder)
    extended = {"when": _now(), "command": _command(), "versions": library_versions()}
    manifest |= {"config": config.to_dict(), "extended": [*manifest.get("extended", []), extended]}
    write_json(folder / "manifest.json", manifest)


def asset_hashes(assets: Assets) -> dict[str, str]:
    """Content hashes of the teacher and the three sets of images."""
    task = assets.task
    splits = {"train": task.train, "validation": task.validation, "test": task.test}
    return {"teacher": state_hash(assets.pair.teacher), **{k: v.content_hash() for k, v in splits.items()}}


def _command() -> str:
    return " ".join(["xaibench", *sys.argv[1:]])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

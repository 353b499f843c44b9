"""A run folder: where each result lies, and how to read it back.

manifest.json                     configuration, versions, hashes, times
images.safetensors                the explained test images, their labels and keys
subspace.safetensors              moments of the teacher's layers
students/METHOD/seedN/            student.safetensors, history.csv, run.json (resume.pt while it trains);
                                  influence.{csv,pdf,png} where training images were weighted
attributions/EXPLAINER/MODEL.safetensors
predictions.csv  scores.csv  summary.csv  validity.csv  table.csv  table.tex
gallery.{pdf,png}  league.{pdf,png}  similarity.{pdf,png}  scores.{pdf,png}  history.{pdf,png}  report.html

On demand: flipping-EXPLAINER-FILL.*  pooling-EXPLAINER-METRIC.*  inside.*  directions.*  cues*  contamination-SHARE/
with what was asked otherwise than by default in the name, as in flipping-lrp-blur-2x2-20images.csv
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from xaibench.attribution.result import Attribution
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, RunFolderError, unknown_name
from xaibench.files import write_atomically, write_json
from xaibench.models.checkpoints import load_checkpoint
from xaibench.run.config import RunConfig

__all__ = ["UNTRAINED", "Run", "file_name", "library_versions", "open_run", "student_names", "variant"]

UNTRAINED = "untrained"
_LIBRARIES = ("xaibench", "torch", "torchvision", "captum", "zennit", "lightning-fabric", "numpy")
_LONGEST = 80  # characters that options may add to a file name
_MANIFEST = ("config", "started", "classes", "layers", "preprocessing", "images", "teacher", "hashes")

# Names stay text, also where they look like numbers.
_TEXT = dict.fromkeys(("image", "label", "predicted", "model", "method", "explainer"), str)

_COLUMNS = {
    "scores.csv": ("method", "seed", "explainer", "metric", "pairing", "image", "value"),
    "summary.csv": ("method", "explainer", "metric", "mean", "low", "high", "n", "nan", "chance", "chance_sd"),
    "predictions.csv": ("model", "image", "label", "predicted", "confidence", "correct"),
    "validity.csv": ("model", "explainer", "check", "value", "bound", "passed", "note"),
    "table.csv": ("method", "accuracy"),
}


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder. Everything is read when it is asked for; a result that is not there yet says how to make it."""

    folder: Path
    config: RunConfig

    def __repr__(self) -> str:
        done = sum(self.student_path(name).is_file() for name in self.students)
        return f"Run({self.folder}, {done} of {len(self.students)} students distilled)"

    @property
    def manifest(self) -> dict[str, Any]:
        return _read_manifest(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.manifest["classes"])

    @property
    def preprocessing(self) -> Preprocessing:
        raw = self.manifest["preprocessing"]
        return Preprocessing(tuple(raw["mean"]), tuple(raw["std"]), tuple(raw["size"]) if raw["size"] else None)

    @property
    def explainers(self) -> tuple[str, ...]:
        return self.config.explain.explainers

    @property
    def students(self) -> tuple[str, ...]:
        """Names of the trained students: "kd/seed0", "subdistill/seed0", ..."""
        return student_names(self.config)

    @property
    def models(self) -> tuple[str, ...]:
        """All models that are explained: the teacher, the students, and the untrained student of the null."""
        return ("teacher", *self.students, UNTRAINED)

    @cached_property
    def images(self) -> ImageSet:
        """The explained test images."""
        path = self._need(self.folder / "images.safetensors", "explain")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                pixels, labels = file.get_tensor("images"), file.get_tensor("labels")
        except (SafetensorError, KeyError, ValueError) as error:
            raise RunFolderError(
                f"{path} is corrupt ({error}): delete it and run 'xaibench explain {self.folder}'"
            ) from error
        return ImageSet(pixels, labels, self.classes, tuple(about["keys"]), about["source"])

    def save_images(self, images: ImageSet) -> None:
        about = json.dumps({"keys": images.keys, "source": images.source})
        tensors = {"images": images.images.contiguous(), "labels": images.labels}
        path = self.folder / "images.safetensors"
        write_atomically(path, lambda partial: save_file(tensors, partial, metadata={"about": about}))

    def student_path(self, name: str) -> Path:
        """Where the checkpoint of student "kd/seed0" lies."""
        if name not in self.students:
            raise unknown_name("student", name, self.students)
        return self.folder / "students" / file_name(name) / "student.safetensors"

    def student(self, name: str) -> nn.Module:
        """The trained student, in evaluation mode."""
        return load_checkpoint(self._need(self.student_path(name), "distill"))[0]

    def history(self, name: str) -> pd.DataFrame:
        """One row an epoch."""
        return pd.read_csv(self._need(self.student_path(name).with_name("history.csv"), "distill"))

    def attribution_path(self, model: str, explainer: str) -> Path:
        if model not in self.models:
            raise unknown_name("model of this run", model, self.models)
        if explainer not in self.explainers:
            raise unknown_name("explainer of this run", explainer, self.explainers)
        return self.folder / "attributions" / file_name(explainer) / f"{file_name(model).replace('/', '-')}.safetensors"

    def attribution(self, model: str, explainer: str) -> Attribution:
        """Relevance of the run's images under `model` ("teacher", "kd/seed0", "untrained")."""
        return Attribution.load(self._need(self.attribution_path(model, explainer), "explain"))

    def require_images(self, count: int | None) -> None:
        """Raise ConfigError for more images than were explained, or fewer than 1; None stands for all."""
        n = len(self.images)
        if count is not None and not 1 <= count <= n:
            raise ConfigError(f"{count} images were asked for, but this run explained {n}: choose 1 to {n}")

    def scores(self) -> pd.DataFrame:
        """Columns method, seed, explainer, metric, pairing, image, value: one row a score."""
        return self._table("scores.csv", "score")

    def summary(self) -> pd.DataFrame:
        """Columns method, explainer, metric, mean, low, high, n, nan, chance, chance_sd and the nulls."""
        return self._table("summary.csv", "score")

    def predictions(self) -> pd.DataFrame:
        """Columns model, image, label, predicted, confidence, correct, for the explained images."""
        return self._table("predictions.csv", "explain")

    def validity(self) -> pd.DataFrame:
        """One row a check of a model and explainer, with its number and bound."""
        return self._table("validity.csv", "explain")

    def table(self) -> pd.DataFrame:
        """One row a method: accuracy, agreement with the teacher, similarity."""
        return self._table("table.csv", "score")

    def note(self, **entries: Any) -> None:
        """Add entries to the manifest."""
        write_json(self.folder / "manifest.json", self.manifest | entries)

    def _table(self, name: str, step: str) -> pd.DataFrame:
        path = self._need(self.folder / name, step)
        try:
            table = pd.read_csv(path, dtype=_TEXT)
            missing = [column for column in _COLUMNS[name] if column not in table]
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} is corrupt ({error}): run 'xaibench {step} {self.folder}'") from error
        if missing:
            raise RunFolderError(f"{path} has no column '{missing[0]}': run 'xaibench {step} {self.folder}'")
        return table

    def _need(self, path: Path, step: str) -> Path:
        if not path.is_file():
            raise RunFolderError(f"{path} does not exist yet: run 'xaibench {step} {self.folder}'")
        return path


def student_names(config: RunConfig) -> tuple[str, ...]:
    """ "METHOD/seedN" for every method and seed."""
    return tuple(f"{method}/seed{seed}" for method in config.methods for seed in config.seeds)


def library_versions() -> dict[str, str]:
    """Of xaibench and of what its numbers depend on."""
    return {name: version(name) for name in _LIBRARIES}


def open_run(folder: Path | str) -> Run:
    """Open an existing run folder. Raises RunFolderError where there is none."""
    folder = Path(folder)
    manifest = _read_manifest(folder)
    return Run(folder, RunConfig.from_dict(manifest["config"]))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise RunFolderError(f"no run in {folder} (it has no manifest.json): make one with 'xaibench run'")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _MANIFEST if key not in manifest]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is corrupt ({error}): start again in another folder") from error
    if missing or not isinstance(manifest, dict):
        raise RunFolderError(f"{path} is not the manifest of a run (no '{missing[0]}'): start again in another folder")
    return manifest


def file_name(name: str) -> str:
    """The name of a method or explainer as part of a path: its options' punctuation becomes "_"."""
    return re.sub(r"[^A-Za-z0-9._/-]+", "_", name)


def variant(*asked: object) -> str:
    """What options add to the file names of a question, so that another question gets other files.

    asked  a text for each option that differs from its default; what is empty or None counts for nothing

    >>> variant("2x2", None, "kd subdistill:layer_weight=50")
    '-2x2-kd_subdistill_layer_weight_50'
    """
    text = "".join(f"-{file_name(str(part)).replace('/', '_')}" for part in asked if part)
    return text if len(text) <= _LONGEST else f"-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

"""A run folder: where each result lies, and how to read it back.

manifest.json                     configuration, versions, hashes: written when the run begins (and when it is extended)
files.json                        SHA-256 of the tables and what they were made from, see `ledger`
images.safetensors                the explained test images, their labels and keys
subspace.safetensors              moments of the teacher's layers
students/METHOD/seedN/            student.safetensors, history.csv, job.json (resume.pt while it trains);
                                  influence.{csv,pdf,png} where training images were weighted;
                                  failed.json instead, in a study, where there is none and why
logits.safetensors                every model's logits of the whole test set, and its labels, see `outputs`
attributions/KEY.safetensors      relevance and areas of flipping, under the key of all they depend on (`store.keys`)
teacher/KEY.safetensors           the teacher's logits in trainings, under the same kind of key
explanations.json                 explainer -> model -> key of its maps, or why there are none
predictions.csv  validity.csv  faithfulness.csv  cost.csv  scores.csv  summary.csv  table.csv  table.tex
gallery.{pdf,png}  league.{pdf,png}  similarity.{pdf,png}  scores.{pdf,png}  history.{pdf,png}  report.html

Answers to further questions lie beside them, see `questions`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from xaibench.attribution.result import Attribution
from xaibench.attribution.store.store import AttributionStore
from xaibench.data.image_files import read_images, write_images
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import CheckpointError, ConfigError, DataError, ExplanationError, RunFolderError, unknown_name
from xaibench.files import write_text
from xaibench.models.checkpoints import load_checkpoint
from xaibench.run.config import RunConfig
from xaibench.run.job import Job, StudentFolder, StudentKey, jobs_of
from xaibench.run.ledger import Ledger, digest
from xaibench.run.manifest import read_manifest
from xaibench.run.siblings import siblings
from xaibench.validation import checked

__all__ = ["TEACHER", "UNTRAINED", "Run", "file_name", "open_run"]

TEACHER = "teacher"
UNTRAINED = "untrained"

# Names stay text, also where they look like numbers; the teacher has no number of seeds.
_TYPES = dict.fromkeys(("image", "label", "predicted", "model", "method", "explainer"), "str") | {"seeds": "Int64"}

_TABLES = {"predictions": "explain", "validity": "explain", "faithfulness": "explain"}
_TABLES |= {"scores": "score", "summary": "score", "table": "score"}
"""Name of a table -> the step that makes it."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder. Everything is read when it is asked for; a result that is not there yet says how to make it."""

    folder: Path
    config: RunConfig

    def __repr__(self) -> str:
        done = sum(self.is_distilled(name) for name in self.students)
        return f"Run({self.folder}, {done} of {len(self.students)} students distilled)"

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.folder)

    @property
    def finished(self) -> bool:
        """Whether there is a report, of scores that are up to date."""
        try:
            self.ledger.require("report.html", "report", self.source("report"))
        except RunFolderError:
            return False
        return True

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
    def metric(self) -> str:
        """The metric that orders images and methods: the cosine, or the first of the run where it is not among them."""
        metrics = self.config.similarity.metrics
        return "cosine" if "cosine" in metrics else metrics[0]

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Name of a student ("kd/seed0") -> what trains it."""
        return {str(job.key): job for job in jobs_of(self.config)}

    @property
    def keys(self) -> tuple[StudentKey, ...]:
        """The students by method and seed, in the order of `students`."""
        return tuple(self.jobs[name].key for name in self.students)

    @property
    def students(self) -> tuple[str, ...]:
        """Names of the students: "kd/seed0", "subdistill/seed0", ..., but for those in `failures`."""
        return tuple(name for name in self.jobs if not self.student_folder(name).failure)

    @property
    def failures(self) -> dict[str, str]:
        """Name of a student that could not be made -> why; it is left out of everything."""
        return {name: error for name in self.jobs if (error := self.student_folder(name).failure)}

    @property
    def models(self) -> tuple[str, ...]:
        """All models that are explained: the teacher, the students, and the untrained student of the null."""
        return (TEACHER, *self.students, UNTRAINED)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder)

    @property
    def store(self) -> AttributionStore:
        """Where the run's maps lie."""
        return self._store("attributions")

    @property
    def teacher_store(self) -> AttributionStore:
        """Where the teacher's logits in trainings lie."""
        return self._store("teacher")

    def _store(self, part: str) -> AttributionStore:
        lenders = partial(siblings, self.folder, part)
        return AttributionStore(self.folder / part, max_bytes=2**62, lenders=lenders)

    @cached_property
    def images(self) -> ImageSet:
        """The explained test images."""
        try:
            return read_images(self.ledger.require("images.safetensors", "explain"), self.classes)
        except DataError as error:
            raise RunFolderError(f"{error}: run 'xaibench explain {self.folder}'") from error

    def save_images(self, images: ImageSet) -> None:
        self.ledger.record(write_images(self.folder / "images.safetensors", images).name)

    def student_folder(self, name: str) -> StudentFolder:
        """Where student "kd/seed0" lies."""
        if name not in self.jobs:
            raise unknown_name("student", name, self.jobs)
        return StudentFolder(self.folder / "students" / file_name(name))

    def student_path(self, name: str) -> Path:
        """Where the checkpoint of student "kd/seed0" lies."""
        return self.student_folder(name).checkpoint

    def is_distilled(self, name: str) -> bool:
        """Whether the student is there, whole."""
        return not self.student_folder(name).trouble

    def student(self, name: str) -> nn.Module:
        """The trained student, in evaluation mode."""
        path = self._trained(name).checkpoint
        try:
            return load_checkpoint(path, self.config.student.architecture)[0]
        except CheckpointError as error:
            raise RunFolderError(f"{error}: run 'xaibench distill {self.folder}' to train it again") from error

    def history(self, name: str) -> pd.DataFrame:
        """One row an epoch."""
        return pd.read_csv(self._trained(name).history)

    def explanations(self) -> dict[str, dict[str, dict[str, str]]]:
        """Explainer -> model -> {"key": of its maps} or {"refused": why there are none}, for all of the run's models.

        Raises RunFolderError where an explainer or a model of the run's configuration is missing.
        """
        path = self.ledger.require("explanations.json", "explain", self.source("explain"))
        found: dict[str, dict[str, dict[str, str]]] = json.loads(path.read_text(encoding="utf-8"))
        for explainer, name in product(self.explainers, self.models):
            if name not in found.get(explainer, {}):
                raise RunFolderError(f"{name} is not explained by {explainer}: run 'xaibench explain {self.folder}'")
        return found

    def explained(self, explainer: str) -> tuple[str, ...]:
        """The models with a valid explanation by `explainer`; RunFolderError where one is missing."""
        entries = self._entries(explainer)
        valid = tuple(model for model in self.models if "key" in entries[model])
        for model in valid:
            self._map_path(entries[model]["key"], model, explainer)
        return valid

    def attribution_path(self, model: str, explainer: str) -> Path:
        """The file of a model's maps. ExplanationError if they were refused, RunFolderError if they are missing."""
        if model not in self.models:
            raise unknown_name("model of this run", model, self.models)
        entry = self._entries(explainer)[model]
        if "refused" in entry:
            raise ExplanationError(f"{model} has no valid explanation by {explainer}: {entry['refused']}")
        return self._map_path(entry["key"], model, explainer)

    def attribution(self, model: str, explainer: str) -> Attribution:
        """Relevance of the run's images under `model` ("teacher", "kd/seed0", "untrained")."""
        path = self.attribution_path(model, explainer)
        try:
            return Attribution.load(path)
        except ExplanationError as error:
            raise RunFolderError(
                f"the maps of {model} by {explainer} are damaged ({error.__cause__ or path.name}): "
                f"run 'xaibench explain {self.folder}'"
            ) from error

    def require_images(self, count: int | None) -> None:
        """Raise ConfigError for more images than were explained, or fewer than 1; None stands for all."""
        n = len(self.images)
        if count is not None and not 1 <= count <= n:
            raise ConfigError(f"{count} images were asked for, but this run explained {n}: choose 1 to {n}")

    def scores(self) -> pd.DataFrame:
        """Columns method, seed, explainer, metric, pairing, image, value: one row a score."""
        return self._table("scores")

    def summary(self) -> pd.DataFrame:
        """Columns method, explainer, metric, mean, low, high, n, nan, chance, chance_sd, the nulls, faithfulness."""
        return self._table("summary")

    def predictions(self) -> pd.DataFrame:
        """Columns model, image, label, predicted, confidence, correct, for the whole test set."""
        return self._table("predictions")

    def validity(self) -> pd.DataFrame:
        """One row a check of a model and explainer, with its number and bound."""
        return self._table("validity")

    def faithfulness(self) -> pd.DataFrame:
        """Columns model, explainer, image, random, own, gap: areas of pixel flipping, see `flipping_gap`."""
        return self._table("faithfulness")

    def table(self) -> pd.DataFrame:
        """One row a method: accuracy, agreement with the teacher, similarity."""
        return self._table("table")

    def write_tables(self, **tables: pd.DataFrame) -> None:
        """Write tables that one step makes (name in `_TABLES` -> contents) and record them."""
        names = [f"{name}.csv" for name in tables]
        self.ledger.forget(*names)
        for name, table in tables.items():
            write_text(self.folder / f"{name}.csv", table.to_csv(index=False))
        (step,) = {_TABLES[name] for name in tables}
        self.ledger.record(*names, source=self.source(step))

    def source(self, step: str) -> str:
        """Digest of what the results of a step ("explain", "score", "report") are made from."""
        config, hashes = self.config.for_digests(), self.manifest["hashes"]
        students = {name: self.student_folder(name).contents() for name in self.students}
        parts = [config["data"], config["explain"], hashes, students]
        made = self.ledger.entries
        if step in ("score", "report"):
            parts += [config["similarity"], made.get("explanations.json"), made.get("faithfulness.csv")]
        if step == "report":
            parts.append(made.get("scores.csv"))
        return digest(*parts)

    def _trained(self, name: str) -> StudentFolder:
        folder = self.student_folder(name)
        if folder.trouble:
            raise RunFolderError(f"{folder.trouble}: run 'xaibench distill {self.folder}'")
        return folder

    def _entries(self, explainer: str) -> dict[str, dict[str, str]]:
        if explainer not in self.explainers:
            raise unknown_name("explainer of this run", explainer, self.explainers)
        return self.explanations()[explainer]

    def _map_path(self, key: str, model: str, explainer: str) -> Path:
        path = self.store.path_of(key)
        if not path.is_file():
            raise RunFolderError(
                f"the maps of {model} by {explainer} are missing ({path}): run 'xaibench explain {self.folder}'"
            )
        return path

    def _table(self, name: str) -> pd.DataFrame:
        step = _TABLES[name]
        path = self.ledger.require(f"{name}.csv", step, self.source(step))
        return pd.read_csv(path, dtype=_TYPES)


@checked(error=RunFolderError)
def open_run(folder: Path | str) -> Run:
    """Open an existing run folder. Raises RunFolderError where there is none."""
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    return Run(folder, RunConfig.from_dict(manifest["config"]))


def file_name(name: str) -> str:
    """The name of a method or explainer as part of a path."""
    return re.sub(r"[^A-Za-z0-9._/-]+", "_", name)

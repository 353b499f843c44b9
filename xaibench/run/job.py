"""The unit of work: one student, by all that makes it, and the folder that it is kept in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xaibench.distillation.methods import Method, method_name, parse_method
from xaibench.distillation.recipe import Recipe
from xaibench.errors import RunFolderError, unknown_name
from xaibench.files import sha256_of_file, write_json
from xaibench.run.config import DataConfig, RunConfig, StudentConfig, TeacherConfig
from xaibench.validation import checked

__all__ = ["Job", "StudentFolder", "StudentKey", "jobs_of"]


@dataclass(frozen=True)
class StudentKey:
    """A student of a run. `str(key)` is its name, "kd/seed0"; equal methods and seeds make equal keys.

    >>> str(StudentKey.of("kd: temperature=2", 0))
    'kd:temperature=2/seed0'
    """

    method: Method
    seed: int

    @classmethod
    def of(cls, method: Method | str, seed: int) -> StudentKey:
        """The key for a method or its text."""
        return cls(parse_method(method) if isinstance(method, str) else method, int(seed))

    @classmethod
    def parse(cls, name: str) -> StudentKey:
        """The key whose `str` is `name`; UnknownNameError for a text without "/seedN"."""
        method, slash, seed = name.rpartition("/seed")
        if not slash or not seed.isdecimal():
            raise unknown_name("student", name, ["METHOD/seedN"])
        return cls.of(method, int(seed))

    @cached_property
    def method_name(self) -> str:
        """The shortest text of the method."""
        return method_name(self.method)

    def __str__(self) -> str:
        return f"{self.method_name}/seed{self.seed}"


@dataclass(frozen=True)
class Job:
    """What one student depends on: hashable, picklable, with absolute paths."""

    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    method: Method
    recipe: Recipe
    seed: int

    @property
    def key(self) -> StudentKey:
        return StudentKey(self.method, self.seed)


@checked
def jobs_of(config: RunConfig) -> tuple[Job, ...]:
    """The jobs of a run, method by method."""
    return tuple(
        Job(config.data, config.teacher, config.student, parse_method(method), config.train, seed)
        for method in config.methods
        for seed in config.seeds
    )


@dataclass(frozen=True)
class StudentFolder:
    """The folder of one student. `job.json` is written last and holds the hashes of the other files."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "student.safetensors"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def about_path(self) -> Path:
        return self.folder / "job.json"

    @property
    def failure(self) -> str:
        """Why the last training of the student ended without one; "" where none failed, or one is under way."""
        try:
            return str(json.loads((self.folder / "failed.json").read_text(encoding="utf-8"))["error"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):
            return "failed.json is damaged"

    def fail(self, error: str, traceback: str) -> None:
        """Note why there is no student."""
        write_json(self.folder / "failed.json", {"error": error, "traceback": traceback.splitlines()})

    def begin(self) -> None:
        """Forget an earlier failure."""
        (self.folder / "failed.json").unlink(missing_ok=True)

    def about(self) -> dict[str, Any]:
        """What job.json says. Raises RunFolderError where it is missing or damaged."""
        try:
            about = json.loads(self.about_path.read_text(encoding="utf-8"))
            if self.checkpoint.name in about["files"]:
                return dict(about)
        except FileNotFoundError as error:
            raise RunFolderError(f"{self.checkpoint} does not exist yet: train the student first") from error
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise RunFolderError(f"{self.about_path} is damaged: train the student again")

    def contents(self) -> str:
        """Hash of the checkpoint, "" where there is none."""
        try:
            return str(self.about()["files"][self.checkpoint.name])
        except RunFolderError:
            return ""

    def finish(self, about: dict[str, Any], files: list[str]) -> None:
        """Write job.json, which makes the student complete."""
        hashes = {name: sha256_of_file(self.folder / name) for name in files}
        write_json(self.about_path, about | {"files": hashes})

    @property
    def trouble(self) -> str:
        """Why the student cannot be used; "" for one that is there and as it was written."""
        try:
            files = self.about()["files"]
        except RunFolderError as error:
            return str(error).partition(": ")[0]
        for name, expected in files.items():
            path = self.folder / name
            if not path.is_file():
                return f"{path} is missing"
            if sha256_of_file(path) != expected:
                return f"{path} is not what was written (damaged or edited)"
        return ""

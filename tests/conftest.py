"""A tiny task that can be learned in seconds, and a teacher and student for it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import Subtask
from xaibench.data.tasks import Task
from xaibench.distillation.distill import make_fabric, train_classifier
from xaibench.distillation.recipe import Recipe
from xaibench.models.architectures import build_model
from xaibench.models.pair import ModelPair
from xaibench.study.folder import Study

SIDE = 12
TEACHER_CLASSES = ("top", "bottom", "middle", "edges")
CLASSES = ("middle", "top", "bottom")


def _images(classes: tuple[str, ...], per_class: int, seed: int) -> ImageSet:
    """Noise with a brighter band where the class name says. Mirroring changes no class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(per_class * len(classes)) % len(classes)
    pixels = torch.randint(0, 160, (len(labels), 3, SIDE, SIDE), generator=generator)
    third = SIDE // 3
    rows = {
        "top": range(third),
        "middle": range(third, 2 * third),
        "bottom": range(2 * third, SIDE),
        "edges": (0, 1, SIDE - 2, SIDE - 1),
    }
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, list(rows[classes[label]])] += 60
    keys = tuple(f"{seed}/{i:03d}" for i in range(len(labels)))
    return ImageSet(pixels.to(torch.uint8), labels, classes, keys, "bands")


@pytest.fixture(scope="module", autouse=True)
def no_event_loop_is_left() -> Iterator[None]:
    """What asks for a running event loop, as a panel does, finds none that an earlier file left."""
    yield
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of values that the methods' own public code gave."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    """48 + 24 + 24 colour images of 12x12 pixels in three classes."""
    train, validation, test = (_images(CLASSES, n, seed) for seed, n in enumerate((16, 8, 8)))
    return Task(train, validation, test, Subtask("bands", CLASSES), "bands")


@pytest.fixture(scope="session")
def tiny_preprocessing() -> Preprocessing:
    return Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.2), (SIDE, SIDE))


@pytest.fixture(scope="session")
def tiny_fabric() -> Fabric:
    """One CPU in float32."""
    return make_fabric(Recipe(precision="32-true"), "cpu")


@pytest.fixture(scope="session")
def tiny_teacher(tiny_preprocessing: Preprocessing, tiny_fabric: Fabric) -> nn.Module:
    """A teacher of four classes, the task's three among them; right on nearly all images."""
    model = build_model("resnet18-cifar:8-12-16-16@8", len(TEACHER_CLASSES))
    recipe = Recipe(epochs=6, batch_size=16, lr=3e-3, augment="none", precision="32-true")
    train, validation = _images(TEACHER_CLASSES, 24, 10), _images(TEACHER_CLASSES, 8, 11)
    return train_classifier(model, train, validation, tiny_preprocessing, recipe, fabric=tiny_fabric).student


@pytest.fixture(scope="session")
def make_pair(tiny_teacher: nn.Module, tiny_preprocessing: Preprocessing) -> Callable[..., ModelPair]:
    """make_pair(seed=0, widths="4-6-8-8@4") -> the tiny teacher with a fresh student."""

    def make(seed: int = 0, widths: str = "4-6-8-8@4") -> ModelPair:
        return ModelPair.create(
            tiny_teacher,
            build_model(f"resnet18-cifar:{widths}", len(CLASSES), seed=seed),
            classes=CLASSES,
            preprocessing=tiny_preprocessing,
            teacher_classes=TEACHER_CLASSES,
        )

    return make


@pytest.fixture
def tiny_pair(make_pair: Callable[..., ModelPair]) -> ModelPair:
    return make_pair()


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """Three epochs of three steps, float32."""
    return Recipe(epochs=3, batch_size=16, padding=1, precision="32-true")


@pytest.fixture(scope="session")
def tiny_config() -> str:
    """The TOML of a run that takes seconds: four tops, three methods, a very small student, six explained images."""
    return """
methods = ["student-only", "kd", "subdistill"]
[data]
subtask = "tops"
fraction = 0.2
[student]
architecture = "resnet18-cifar:4-6-8-8@8"
[train]
epochs = 4
lr = 5e-3
views = 2
[explain]
images = 6
explainers = ["lrp", "ig:budget=1025"]
"""


@pytest.fixture(scope="session")
def small_settings() -> list[str]:
    """Options of `xaibench run --preset demo` that make it a run of one student and a second or two."""
    settings = {
        "methods": "['student-only']",
        "seeds": "[0]",
        "data.subtask": "footwear",
        "data.fraction": "0.05",
        "train.epochs": "1",
        "student.architecture": "resnet18-cifar:4-4-4-4@4",
        "explain.images": "3",
        "explain.explainers": "['lrp']",
        "similarity.metrics": "['cosine']",
    }
    return ["--accelerator", "cpu", *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


@contextmanager
def for_all_processes(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that all processes of this test run share; within the block no other one is at it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield base / name


@pytest.fixture(scope="session")
def tiny_run(tiny_config: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny_config`, made once for all processes: copy it before it is written into."""
    from xaibench.run.config import RunConfig
    from xaibench.run.folder import open_run
    from xaibench.run.pipeline import run_config

    with for_all_processes(tmp_path_factory, "tiny-run") as folder:
        if not (folder / "manifest.json").is_file() or not open_run(folder).finished:
            run_config(RunConfig.parse(tiny_config), folder, accelerator="cpu")
    return folder


@pytest.fixture(scope="session")
def study_toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TOML of a study of two subtasks and two methods, eight very small students in all."""
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text("""
about = "two subtasks, two methods"
methods = ["student-only", "subdistill:layer_weight=1"]
claim = "subdistill:layer_weight=1"
seeds = [0, 1]
[data]
fraction = 0.05
[student]
architecture = "resnet18-cifar:4-4-6-6@4"
[train]
epochs = 2
[explain]
images = 4
explainers = ["lrp"]
[similarity]
metrics = ["cosine"]
[vary]
data.subtask = ["tops", "footwear"]
[small]
seeds = [0]
vary.data.subtask = ["tops"]
""")
    return path


@pytest.fixture(scope="session")
def tiny_study(study_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished study, made once for all processes: copy its folder before anything is written into it."""
    from xaibench.study.config import StudyConfig
    from xaibench.study.engines import Serial
    from xaibench.study.run_study import run_study

    with for_all_processes(tmp_path_factory, "tiny-study") as folder:
        return run_study(StudyConfig.load(study_toml), folder, engine=Serial)


@pytest.fixture(scope="session")
def small_study(study_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same at the small scale, one run of two students, by a process that nothing disturbed."""
    from xaibench.study.config import StudyConfig
    from xaibench.study.engines import Serial
    from xaibench.study.run_study import run_study

    with for_all_processes(tmp_path_factory, "small-study") as folder:
        return run_study(StudyConfig.load(study_toml, scale="small"), folder, engine=Serial)


@dataclass(frozen=True)
class Called:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line after the progress bars that says what went wrong."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert lines, "stderr is empty"
        assert lines[-1].startswith("error: "), self.err
        assert "Traceback" not in self.err
        return lines[-1]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """cli("run", "x.toml") -> what the command line did, run in this process."""
    from xaibench.cli import main

    def call(*arguments: object) -> Called:
        monkeypatch.setattr(sys, "argv", ["xaibench", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Called(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """contents(folder) -> relative path -> SHA-256 of every file in it."""

    def read(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    return read

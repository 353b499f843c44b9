"""From a configuration to the objects it names: task, teacher, student, pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from xaibench.data.datasets import CLASS_LISTS, embedded, preprocessing_for
from xaibench.data.images import Preprocessing
from xaibench.data.tasks import Task, load_task
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint
from xaibench.models.pair import ModelPair
from xaibench.run.config import DataConfig, RunConfig, StudentConfig, TeacherConfig
from xaibench.validation import checked

__all__ = ["Assets", "assets_of", "load_assets", "load_teacher"]


@dataclass(frozen=True, eq=False)
class Assets:
    """What a run works on. `pair` holds an untrained student; `student(seed)` gives each seed's initialisation."""

    task: Task
    pair: ModelPair
    card: ModelCard
    student: StudentConfig

    def student_pair(self, seed: int) -> ModelPair:
        """The pair around a freshly initialised student."""
        student = _untrained(self.student, len(self.pair.classes), self.pair.preprocessing.channels, seed)
        return self.pair.with_student(student)

    def student_card(self, **notes: object) -> ModelCard:
        return ModelCard(self.student.architecture, self.pair.classes, self.pair.preprocessing, dict(notes))


@checked
def load_assets(config: RunConfig) -> Assets:
    """What the jobs of a run work on."""
    return assets_of(config.data, config.teacher, config.student)


def assets_of(data: DataConfig, teacher_config: TeacherConfig, student_config: StudentConfig) -> Assets:
    """Load data and teacher, build the student, check that they fit each other."""
    subtask = data.subtask if isinstance(data.subtask, str) else list(data.subtask)
    size = (data.size[0], data.size[-1]) if data.size else None
    task = load_task(
        data.dataset,
        subtask,
        root=data.root,
        size=size,
        download=data.download,
        split=data.split,
        fraction=data.fraction,
        validation=data.validation,
        label_noise=data.label_noise,
        seed=data.seed,
    )
    teacher, card = load_teacher(teacher_config, data.dataset)
    classes = task.subtask.classes
    _, height, width = task.train.shape
    student = _untrained(student_config, len(classes), card.preprocessing.channels)
    card.preprocessing(task.train.images[:1])  # channels and size agree, or a clear error
    pair = ModelPair.create(
        teacher,
        student,
        classes=classes,
        preprocessing=card.preprocessing,
        teacher_classes=card.classes,
        layers=student_config.pairs,
        input_size=(height, width),
    )
    return Assets(task, pair, card, student_config)


def _untrained(config: StudentConfig, classes: int, channels: int, seed: int = 0) -> torch.nn.Module:
    return build_model(config.architecture, classes, channels, seed=seed, init=config.init)


def load_teacher(config: TeacherConfig, dataset: str) -> tuple[torch.nn.Module, ModelCard]:
    """The teacher of a configuration.

    A bare state dict that is given no mean and std gets those of the set that its class list names, or of the dataset.
    An image folder does not say what the teacher was trained on: there they must be given, or ConfigError is raised.
    """
    path = Path(config.checkpoint)
    if config.checkpoint.startswith("embedded:"):
        path = embedded(config.checkpoint.removeprefix("embedded:"))
    classes: tuple[str, ...] | None
    if isinstance(config.classes, str):
        if config.classes not in CLASS_LISTS:
            raise unknown_name("class list", config.classes, CLASS_LISTS)
        classes = CLASS_LISTS[config.classes]
    else:
        classes = config.classes
    preprocessing = None
    if config.mean is not None and config.std is not None:
        preprocessing = Preprocessing(config.mean, config.std)
    elif path.suffix != ".safetensors" and not config.checkpoint.startswith("installed:"):
        preprocessing = _trained_with(config.classes, dataset)
    return load_checkpoint(path, config.architecture, classes, preprocessing)


def _trained_with(classes: str | tuple[str, ...] | None, dataset: str) -> Preprocessing:
    if isinstance(classes, str):
        return preprocessing_for("torchvision:ImageNet" if classes == "imagenet" else classes)
    if dataset.startswith("imagefolder:"):
        raise ConfigError(
            "the teacher's checkpoint does not say how its input was normalised: give teacher.mean and teacher.std, or "
            f"name the set it was trained on, as in teacher.classes = 'cifar100' (known: {', '.join(CLASS_LISTS)})"
        )
    return preprocessing_for(dataset)

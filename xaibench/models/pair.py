"""The pair under study: a frozen teacher restricted to the subtask, a student, and which of their layers correspond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from xaibench.data.images import Preprocessing, checked_size, first_double
from xaibench.data.tasks import Task
from xaibench.errors import ModelError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import load_checkpoint, state_hash
from xaibench.models.class_slice import ClassSlice, sliced, unsliced
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import layer_module
from xaibench.models.layer_pairs import LayerPair, parse_layers, suggest_layers
from xaibench.models.trial import (
    check_classes,
    check_training,
    check_weights,
    explained,
    outputs,
    trial_images,
    usual_size,
    warn_of_softmax,
)
from xaibench.validation import checked

__all__ = [
    "LayerPair",
    "ModelPair",
    "parse_layers",
]

Layers = Sequence[tuple[str, str] | str] | str | None
"""Layer pairs as (teacher, student) or "teacher:student"; None or "auto" for those that `suggest_layers` finds."""


@checked(error=ModelError)
@dataclass(frozen=True, eq=False)
class ModelPair:
    """Teacher and student with everything needed to ask both the same question.

    teacher        frozen, in evaluation mode, logits sliced to `classes`: (N, K)
    student        logits (N, K)
    layers         corresponding layers, early to late
    preprocessing  pixels -> input, the same for both
    classes        the K class names of the subtask, in logit order

    A model returns its logits or what holds them: by the name `logits` (Hugging Face's ModelOutput, a dict), else first
    in a tuple. `ModelPair.create` builds a pair and works on copies: the modules given to it are left as they were.
    """

    teacher: nn.Module
    student: nn.Module
    layers: tuple[LayerPair, ...]
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @classmethod
    @checked(error=ModelError)
    def create(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        *,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        teacher_classes: Sequence[str] | None = None,
        layers: Layers = None,
        input_size: Sequence[int] | None = None,
    ) -> ModelPair:
        """Copy both models, slice the teacher's logits to `classes`, check by trial passes that everything fits.

        teacher_classes  the teacher's class names in logit order; None: they are `classes`
        layers           layer pairs or "teacher:student", as `parse_layers` reads it; None or "auto": those that
                         `suggest_layers` finds; () for none
        input_size       (H, W) of the images; None: that of `preprocessing`, else the first usual size both models take

        Raises ModelError for models that are not float32 modules or do not give logits (N, K), in evaluation mode or,
        the student, in training mode; for layers that give no maps, and for class names that do not fit the logits or
        occur twice. A model that ends in softmax is warned about in the log.
        """
        check_weights("teacher", teacher, trained=False)
        check_weights("student", student, trained=True)
        classes = tuple(classes)
        known = classes if teacher_classes is None else tuple(teacher_classes)
        if (double := first_double(classes)) is not None:
            raise ModelError(f"the class '{double}' is there twice: give each of the classes once")
        if len(classes) < 2:
            raise ModelError(f"a subtask needs at least 2 classes, got {classes}")
        width: int | None = len(known)
        if isinstance(teacher, ClassSlice):  # of a classifier with more classes, which have no names here
            if len(teacher.indices) != width:
                raise ModelError(
                    f"the teacher has {len(teacher.indices)} logits but there are {width} classes: "
                    "give the list of all its classes, in order"
                )
            width = None
        teacher = sliced(_frozen(teacher), known, classes)
        student = private_copy(student)
        channels = preprocessing.channels
        size = preprocessing.size if input_size is None else checked_size(input_size)
        size = size or usual_size((unsliced(teacher), student), channels)
        if layers is None or layers == "auto":
            with explained(size, channels):
                layers = suggest_layers(teacher, student, trial_images(student, channels, size))
        pair = cls(teacher, student, _layer_pairs(layers), preprocessing, classes)
        if (double := first_double(list(map(str, pair.layers)))) is not None:
            raise ModelError(f"the layer pair {double} is there twice: give each pair once")
        for t, s in pair.layers:
            layer_module(pair.teacher_network, t)
            layer_module(student, s)
        pair._try(size, width)
        return pair

    @classmethod
    @checked(error=ModelError)
    def load(
        cls,
        teacher: str | Path | nn.Module,
        student: str | nn.Module,
        task: Task,
        *,
        layers: Layers = None,
        seed: int = 0,
        architecture: str | None = None,
        classes: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> ModelPair:
        """The pair of a teacher and a student for the images of `task`.

        teacher        a module, or a checkpoint for `load_checkpoint`: a path, "embedded:NAME" or "installed:NAME"
        student        a module, or an architecture for `build_model`, which is initialised from `seed`
        layers         as in `create`
        architecture, classes, preprocessing
                       what the teacher is, where it does not say so itself: all three for a bare state dict,
                       `preprocessing` for a module; classes=None: a module's logits are the task's classes

        Raises CheckpointError for a checkpoint that cannot be loaded, and what `create` and `build_model` raise.
        """
        if isinstance(teacher, nn.Module):
            if preprocessing is None:
                raise ModelError(
                    "the mean and std that the teacher was trained with are not known: give preprocessing, as in "
                    "Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
                )
            known = task.subtask.classes if classes is None else tuple(classes)
        else:
            teacher, card = load_checkpoint(teacher, architecture, classes, preprocessing)
            known, preprocessing = card.classes, card.preprocessing
        names, (_, height, width) = task.subtask.classes, task.train.shape
        preprocessing(task.train.images[:1])  # channels and size agree, or a clear error
        if isinstance(student, str):
            student = build_model(student, len(names), preprocessing.channels, seed=seed)
        return cls.create(
            teacher,
            student,
            classes=names,
            preprocessing=preprocessing,
            teacher_classes=known,
            layers=layers,
            input_size=(height, width),
        )

    @property
    def teacher_network(self) -> nn.Module:
        """The teacher without the class slice: the module that layer names refer to."""
        return unsliced(self.teacher)

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        return tuple(pair.teacher for pair in self.layers)

    @property
    def student_layers(self) -> tuple[str, ...]:
        return tuple(pair.student for pair in self.layers)

    @checked(error=ModelError)
    def with_student(self, student: nn.Module) -> ModelPair:
        """The same pair around another student (a trained one, a control)."""
        return ModelPair(self.teacher, student, self.layers, self.preprocessing, self.classes)

    def hashes(self) -> dict[str, str]:
        """Content hashes of both models' weights."""
        return {"teacher": state_hash(self.teacher), "student": state_hash(self.student)}

    def __repr__(self) -> str:
        def describe(model: nn.Module) -> str:
            return f"{type(model).__name__} {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M"

        layers = ", ".join(map(str, self.layers))
        return (
            f"ModelPair(teacher={describe(self.teacher_network)}, student={describe(self.student)}, "
            f"layers=[{layers}], classes={list(self.classes)})"
        )

    @checked(error=ModelError)
    def layer_shapes(self, size: Sequence[int]) -> dict[LayerPair, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The shapes (d, H, W) that each pair's layers give for images of `size` (H, W): teacher's, student's."""
        channels = self.preprocessing.channels
        teacher = outputs(self.teacher, self.teacher_layers, channels, checked_size(size))
        student = outputs(self.student, self.student_layers, channels, checked_size(size))
        return {
            pair: (tuple(teacher.layers[pair.teacher].shape[1:]), tuple(student.layers[pair.student].shape[1:]))
            for pair in self.layers
        }

    def _try(self, size: tuple[int, int], teacher_classes: int | None) -> None:
        """A trial pass of both. teacher_classes: how many logits the unsliced teacher must have; None: any number."""
        channels = self.preprocessing.channels
        teacher = outputs(self.teacher_network, self.teacher_layers, channels, size)
        student = outputs(self.student, self.student_layers, channels, size)
        if teacher_classes is not None:
            check_classes("teacher", teacher.logits, teacher_classes)
        check_classes("student", student.logits, len(self.classes))
        check_training(self.student, len(self.classes), channels, size)
        for role, model, given in (("teacher", self.teacher_network, teacher), ("student", self.student, student)):
            warn_of_softmax(role, model, given.logits, trial_images(model, channels, size))
        for t, s in self.layers:
            a, b = (tuple(values.shape[1:]) for values in (teacher.layers[t], student.layers[s]))
            if len(a) != 3 or len(b) != 3:
                raise ModelError(
                    f"layer pair {t}:{s} has outputs of shape {a} and {b}, but maps (C, H, W) are needed: "
                    "pair layers that give maps or tokens"
                )


def _layer_pairs(layers: Sequence[tuple[str, str] | str] | str) -> tuple[LayerPair, ...]:
    given = [layers] if isinstance(layers, (str, LayerPair)) else layers
    return tuple(parse_layers([layer])[0] if isinstance(layer, str) else LayerPair(*layer) for layer in given)


def _frozen(model: nn.Module) -> nn.Module:
    return private_copy(model).eval().requires_grad_(False)

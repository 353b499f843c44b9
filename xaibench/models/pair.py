"""The pair under study: a frozen teacher restricted to the subtask, a student, and which of their layers correspond."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from xaibench.data.images import Preprocessing
from xaibench.errors import ModelError
from xaibench.models.checkpoints import state_hash
from xaibench.models.class_slice import ClassSlice, class_indices, class_names, unsliced
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import Outputs, evaluating, forward_with_layers, layer_module
from xaibench.models.layer_pairs import LayerPair, parse_layers, suggest_layers

__all__ = [
    "ClassSlice",
    "LayerPair",
    "ModelPair",
    "class_indices",
    "parse_layers",
]


_USUAL_SIZE = (224, 224)


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Teacher and student with everything needed to ask both the same question.

    teacher        frozen, in evaluation mode, logits sliced to `classes`: (N, K)
    student        logits (N, K)
    layers         corresponding layers, early to late
    preprocessing  pixels -> input, the same for both
    classes        the K class names of the subtask, in logit order

    Build it with `ModelPair.create`, which works on copies: the modules given to it are left as they were.
    """

    teacher: nn.Module
    student: nn.Module
    layers: tuple[LayerPair, ...]
    preprocessing: Preprocessing
    classes: tuple[str, ...]

    @classmethod
    def create(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        *,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        teacher_classes: tuple[str, ...] | None = None,
        layers: Sequence[LayerPair | str] | Literal["auto"] | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> ModelPair:
        """Copy both models, slice the teacher's logits to `classes`, check that everything fits.

        teacher_classes  the teacher's class names in logit order; None: they are `classes`
        layers           layer pairs or "teacher:student", as `parse_layers` reads it; None or "auto": those that
                         `layers.suggest_layers` finds; () for none
        input_size       (H, W) of the images, for a trial forward pass that checks logits and layer shapes
        """
        classes = class_names(classes)
        known = classes if teacher_classes is None else class_names(teacher_classes)
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ModelError(f"a subtask needs at least 2 different classes, got {classes}")
        teacher = _frozen(teacher)
        if known != classes:
            teacher = ClassSlice(teacher, class_indices(known, classes)).eval()
        student = private_copy(student)
        size = input_size or preprocessing.size
        if layers is None or layers == "auto":
            trial = size or _USUAL_SIZE
            with _explained(trial, preprocessing.channels):
                layers = suggest_layers(teacher, student, _zeros(student, preprocessing.channels, trial))
        pair = cls(teacher, student, _layer_pairs(layers), preprocessing, classes)
        for t, s in pair.layers:
            layer_module(pair.teacher_network, t)
            layer_module(student, s)
        if size is not None:
            pair._try(size, None if teacher_classes is None else len(known))
        return pair

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

    def layer_shapes(self, size: tuple[int, int]) -> dict[LayerPair, tuple[tuple[int, ...], tuple[int, ...]]]:
        """The shapes (d, H, W) that each pair's layers give for images of `size` (H, W): teacher's, student's."""
        teacher, student = self._outputs(size)
        return {
            pair: (tuple(teacher.layers[pair.teacher].shape[1:]), tuple(student.layers[pair.student].shape[1:]))
            for pair in self.layers
        }

    def _outputs(self, size: tuple[int, int]) -> tuple[Outputs, Outputs]:
        x = _zeros(self.student, self.preprocessing.channels, size)
        with torch.no_grad(), evaluating(self.student), _explained(size, self.preprocessing.channels):
            teacher = forward_with_layers(self.teacher, x, self.teacher_layers)
            return teacher, forward_with_layers(self.student, x, self.student_layers)

    def _try(self, size: tuple[int, int], teacher_classes: int | None) -> None:
        if teacher_classes is not None:
            with torch.no_grad(), _explained(size, self.preprocessing.channels):
                logits = self.teacher_network(_zeros(self.student, self.preprocessing.channels, size))
            _check_logits("teacher", logits, teacher_classes)
        teacher, student = self._outputs(size)
        _check_logits("teacher", teacher.logits, len(self.classes))
        _check_logits("student", student.logits, len(self.classes))
        for t, s in self.layers:
            a, b = (tuple(values.shape[1:]) for values in (teacher.layers[t], student.layers[s]))
            if len(a) != 3 or len(b) != 3:
                raise ModelError(
                    f"layer pair {t}:{s} has outputs of shape {a} and {b}, but maps (C, H, W) are needed: "
                    "pair layers that give maps or tokens"
                )


def _layer_pairs(layers: Sequence[LayerPair | str]) -> tuple[LayerPair, ...]:
    pairs: list[LayerPair] = []
    for layer in (layers,) if isinstance(layers, (str, LayerPair)) else layers:
        if isinstance(layer, str):
            pairs += parse_layers([layer])
        elif isinstance(layer, tuple) and len(layer) == 2:
            pairs.append(LayerPair(*layer))
        else:
            raise ModelError(f"{layer!r:.60} is no layer pair: write 'teacher:student' or LayerPair(teacher, student)")
    return tuple(pairs)


def _zeros(model: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    return torch.zeros(2, channels, *size, device=next(model.parameters()).device)


@contextmanager
def _explained(size: tuple[int, int], channels: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, IndexError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the models cannot process {size[0]}x{size[1]} images with {channels} channels "
            f"({reason}): choose data or an architecture that fits"
        ) from error


def _check_logits(role: str, logits: object, classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(f"the {role} returns {type(logits).__name__}, not logits (N, K): wrap it so that it does")
    if logits.shape[1] != classes:
        raise ModelError(
            f"the {role} has {logits.shape[1]} logits but there are {classes} classes: give the matching class list"
        )


def _frozen(model: nn.Module) -> nn.Module:
    return private_copy(model).eval().requires_grad_(False)

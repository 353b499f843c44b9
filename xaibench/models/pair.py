"""The pair under study: a frozen teacher restricted to the subtask, a student, and which of their layers correspond."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xaibench.data.images import Preprocessing
from xaibench.errors import ModelError, unknown_name
from xaibench.models.architectures import default_layers
from xaibench.models.checkpoints import state_hash
from xaibench.models.taps import layer_module, tapped

__all__ = [
    "ClassSlice",
    "LayerPair",
    "ModelPair",
    "Outputs",
    "class_indices",
    "forward_with_layers",
    "parse_layers",
]


class LayerPair(NamedTuple):
    """A teacher layer and the student layer that is to match it, by module name."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher}:{self.student}"


class Outputs(NamedTuple):
    """One forward pass: logits (N, K) and the outputs (N, d, H, W) of the layers that were asked for."""

    logits: Tensor
    layers: dict[str, Tensor]


class ClassSlice(nn.Module):
    """A classifier whose logits are those of `network` at `indices`, in that order: (N, K)."""

    indices: Tensor

    def __init__(self, network: nn.Module, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("indices", torch.tensor(indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[:, self.indices]


def class_indices(have: tuple[str, ...], want: tuple[str, ...]) -> tuple[int, ...]:
    """Positions of the class names `want` in `have`; an unknown name raises with the nearest valid one."""
    position = {name: i for i, name in enumerate(have)}
    for name in want:
        if name not in position:
            raise unknown_name("class of the teacher", name, have)
    return tuple(position[name] for name in want)


def parse_layers(specs: list[str] | tuple[str, ...]) -> tuple[LayerPair, ...]:
    """["layer1:layer1", "layer2"] -> layer pairs; a name without a colon stands for both models."""
    pairs = []
    for spec in specs:
        teacher, _, student = spec.partition(":")
        if not teacher or (":" in spec and not student):
            raise ModelError(f"layer pair '{spec}' is not of the form teacher:student")
        pairs.append(LayerPair(teacher, student or teacher))
    return tuple(pairs)


def forward_with_layers(model: nn.Module, x: Tensor, layers: tuple[str, ...]) -> Outputs:
    """Run `model` once; return its logits and the named layers' outputs."""
    network = model.network if isinstance(model, ClassSlice) else model
    with tapped(network, layers) as outputs:
        logits = model(x)
    unused = [name for name in layers if name not in outputs]
    if unused:
        raise ModelError(f"layer '{unused[0]}' takes no part in the forward pass: pair another layer")
    return Outputs(logits, outputs)


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
        layers: tuple[LayerPair, ...] | None = None,
        input_size: tuple[int, int] | None = None,
    ) -> ModelPair:
        """Copy both models, slice the teacher's logits to `classes`, check that everything fits.

        teacher_classes  the teacher's class names in logit order; None: they are `classes`
        layers           None pairs the default layers (layer1..layer4 of ResNets) by position
        input_size       (H, W) of the images, for a trial forward pass that checks logits and layer shapes
        """
        classes = tuple(classes)
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ModelError(f"a subtask needs at least 2 different classes, got {classes}")
        teacher = _frozen(teacher)
        if teacher_classes is not None and tuple(teacher_classes) != classes:
            teacher = ClassSlice(teacher, class_indices(tuple(teacher_classes), classes)).eval()
        student = _without_inplace(copy.deepcopy(student))
        if layers is None:
            inner = teacher.network if isinstance(teacher, ClassSlice) else teacher
            layers = tuple(LayerPair(t, s) for t, s in zip(default_layers(inner), default_layers(student)))
        pair = cls(teacher, student, layers, preprocessing, classes)
        for t, s in layers:
            layer_module(pair.teacher_network, t)
            layer_module(student, s)
        size = input_size or preprocessing.size
        if size is not None:
            pair._try(size, None if teacher_classes is None else len(teacher_classes))
        return pair

    @property
    def teacher_network(self) -> nn.Module:
        """The teacher without the class slice: the module that layer names refer to."""
        return self.teacher.network if isinstance(self.teacher, ClassSlice) else self.teacher

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

    def _try(self, size: tuple[int, int], teacher_classes: int | None) -> None:
        device = next(self.student.parameters()).device
        x = torch.zeros(2, self.preprocessing.channels, *size, device=device)
        training = self.student.training
        self.student.eval()
        try:
            with torch.no_grad():
                if teacher_classes is not None:
                    _check_logits("teacher", self.teacher_network(x), teacher_classes)
                shapes = {}
                for role, model, layers in (
                    ("teacher", self.teacher, self.teacher_layers),
                    ("student", self.student, self.student_layers),
                ):
                    outputs = forward_with_layers(model, x, layers)
                    _check_logits(role, outputs.logits, len(self.classes))
                    shapes[role] = {name: tuple(value.shape[1:]) for name, value in outputs.layers.items()}
        except (RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"the models cannot process {size[0]}x{size[1]} images with {self.preprocessing.channels} channels "
                f"({reason}): choose data or an architecture that fits"
            ) from error
        finally:
            self.student.train(training)
        for t, s in self.layers:
            a, b = shapes["teacher"][t], shapes["student"][s]
            if len(a) != 3 or len(b) != 3:
                raise ModelError(
                    f"layer pair {t}:{s} has outputs of shape {a} and {b}, but maps (C, H, W) are needed: "
                    "pair convolutional layers"
                )


def _check_logits(role: str, logits: object, classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(f"the {role} returns {type(logits).__name__}, not logits (N, K): wrap it so that it does")
    if logits.shape[1] != classes:
        raise ModelError(
            f"the {role} has {logits.shape[1]} logits but there are {classes} classes: give the matching class list"
        )


def _without_inplace(model: nn.Module) -> nn.Module:
    # An in-place activation behind a tapped layer would overwrite what was read.
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def _frozen(model: nn.Module) -> nn.Module:
    return _without_inplace(copy.deepcopy(model)).eval().requires_grad_(False)

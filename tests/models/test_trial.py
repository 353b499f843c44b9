"""What `ModelPair.create` finds out by running the models."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xaibench.data.images import Preprocessing
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import ModelError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.models.class_slice import class_indices
from xaibench.models.pair import ModelPair

ABC = ("a", "b", "c")
SIZED = Preprocessing((0.5,) * 3, (0.25,) * 3, (12, 12))
FREE = Preprocessing((0.5,) * 3, (0.25,) * 3)


def net(seed: int = 0, classes: int = 3) -> nn.Module:
    return build_model("resnet18-cifar:4-4-4-4@4", classes, seed=seed)


def create(teacher: nn.Module | None = None, student: nn.Module | None = None, **options: object) -> ModelPair:
    given = {"classes": ABC, "preprocessing": SIZED, "layers": ()} | options
    return ModelPair.create(net() if teacher is None else teacher, net(1) if student is None else student, **given)


def refused(message: str, *models: nn.Module | None, **options: object) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create(*models, **options)
    assert "\n" not in str(caught.value)


class Auxiliary(nn.Module):
    """Gives a tuple in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits: Tensor = self.net(x)
        return (logits, logits) if self.training else logits


def test_a_student_that_gives_no_logits_in_training_is_refused() -> None:
    refused(
        r"Auxiliary returns tuple of 2 tensors of shape \(2, 3\) in training mode, not logits \(N, K\): build it with "
        "aux_logits=False, or wrap it",
        None,
        Auxiliary(),
    )
    assert create(Auxiliary())  # a teacher is never trained


class OneInTraining(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = net(), error

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise self.error
        logits: Tensor = self.net(x)
        return logits


@pytest.mark.parametrize("error", [KeyError("mask"), TypeError("labels are missing\nhere"), ValueError("no")])
def test_a_student_that_fails_in_training_is_refused(error: Exception) -> None:
    refused("cannot process 12x12 images with 3 channels in training mode", None, OneInTraining(error))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_classifiers_come_without_them(name: str) -> None:
    size = (75, 75)
    student = build_model(name, 3)
    assert not any(key.lower().startswith("aux") for key in student.state_dict())
    assert create(net(), student, input_size=size, preprocessing=FREE)


def test_trials_leave_models_random_numbers_and_modes_as_they_were() -> None:
    student = nn.Sequential(net(), nn.Dropout(0.5)).train()
    student[0].eval()
    before, state = state_hash(student), torch.get_rng_state()
    pair = create(None, student)
    assert torch.equal(torch.get_rng_state(), state)
    assert state_hash(student) == before == state_hash(pair.student)
    assert [m.training for m in pair.student.modules()] == [m.training for m in student.modules()]


class Picky(nn.Module):
    """Takes images of one size."""

    def __init__(self, side: int, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * side * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


@pytest.mark.parametrize("side", [224, 64, 32, 28])
def test_without_a_size_the_usual_ones_are_tried(side: int) -> None:
    assert create(Picky(side), Picky(side), preprocessing=FREE)
    refused("the student has 4 logits but there are 3 classes", Picky(side), Picky(side, 4), preprocessing=FREE)
    refused("the teacher has 4 logits but there are 3 classes", Picky(side, 4), Picky(side), preprocessing=FREE)


def test_models_of_an_unusual_size_need_it() -> None:
    message = (
        r"no images with 3 channels of a usual size \(224x224, .*\): give input_size=\(H, W\), or the size in Prep"
    )
    refused(message, Picky(20), Picky(20), preprocessing=FREE)
    refused(message, Picky(32), Picky(28), preprocessing=FREE)
    assert create(Picky(20), Picky(20), preprocessing=FREE, input_size=(20, 20))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_are_refused_with_the_reason(dtype: torch.dtype) -> None:
    name = r"conv1\.weight"
    refused(
        rf"the teacher's weights must be torch.float32, but {name} is {dtype}: give model.float\(\)", net().to(dtype)
    )
    refused(rf"the student's weights must be torch.float32, but {name} is {dtype}", None, net().to(dtype))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_the_reason() -> None:
    scripted = torch.jit.trace(net().eval(), torch.zeros(2, 3, 12, 12))
    for models in ((scripted,), (None, scripted), (nn.Sequential(scripted),)):
        refused("holds TorchScript code, whose layers cannot be read: give the module that it was made from", *models)


def test_a_lazy_model_that_has_not_run_is_refused() -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    refused("the teacher's 1.weight has no values yet: run the model once on a batch", lazy)
    lazy(torch.zeros(2, 3, 12, 12))
    assert create(lazy)


class Still(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_student_without_weights_is_refused() -> None:
    refused("the student has no parameters", None, Still())
    assert create(Still())


class Ending(nn.Module):
    def __init__(self, end: Callable[..., Tensor]) -> None:
        super().__init__()
        self.net, self.end = net(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.net(x), dim=1)


@pytest.mark.parametrize("module", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_model_that_ends_in_softmax_is_warned_about(module: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    teacher = nn.Sequential(net(), module)
    pair = create(teacher)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the teacher gives probabilities (it ends in softmax), not logits" in record.getMessage()
    assert "replace it: model.set_submodule('1', torch.nn.Identity())" in record.getMessage()
    caplog.clear()
    teacher.set_submodule("1", nn.Identity())  # the remedy
    logits = create(teacher).teacher(torch.zeros(2, 3, 12, 12))
    assert not caplog.records
    torch.testing.assert_close(module(logits), pair.teacher(torch.zeros(2, 3, 12, 12)))


@pytest.mark.parametrize("end", [torch.softmax, torch.log_softmax])
def test_softmax_as_a_function_and_behind_a_class_slice(
    end: Callable[..., Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    create(Ending(end), net(1, 2), classes=("c", "a"), teacher_classes=ABC)
    create(net(), Ending(end))
    teacher, student = (record.getMessage() for record in caplog.records)
    assert "the teacher gives probabilities" in teacher
    assert "the student gives probabilities" in student
    assert teacher.endswith("return from its forward what it gives to softmax")


def test_a_name_that_two_logits_have_is_refused_only_where_it_is_asked_for() -> None:
    names = ("crane", "boxer", "crane")
    assert class_indices(names, ("boxer",)) == (1,)
    refused(
        "the teacher's classes 0 and 2 are both named 'crane': give each its own name",
        None,
        net(1, 2),
        classes=("crane", "boxer"),
        teacher_classes=names,
    )
    for classes in CLASS_LISTS.values():
        assert class_indices(classes, classes) == tuple(range(len(classes)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "teacher must be a"),
        ({"student": "resnet18"}, "student must be a"),
        ({"teacher": nn.Linear}, r"teacher must be a .*Module, got the class Linear"),
        ({"classes": None}, "classes"),
        ({"classes": 3}, "classes"),
        ({"preprocessing": None}, "preprocessing"),
        ({"layers": 3}, "layers"),
        ({"input_size": 12}, "size"),
        ({"input_size": (12, 10**8)}, "size"),
        ({"input_size": (0, 12)}, "size"),
    ],
)
def test_wrong_types_are_one_line(options: dict[str, object], message: str) -> None:
    given = {"teacher": net(), "student": net(1), "classes": ABC, "preprocessing": SIZED} | options
    with pytest.raises(ValueError, match=message) as caught:
        ModelPair.create(**given)
    assert type(caught.value).__module__ == "xaibench.errors"
    assert "\n" not in str(caught.value)

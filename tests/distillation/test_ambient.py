"""The same seed gives the same bytes, whatever is set around the call; what was set stays set."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill, train_classifier
from xaibench.distillation.events import Cancelled, EpochState
from xaibench.distillation.recipe import Recipe
from xaibench.models.checkpoints import state_hash
from xaibench.models.pair import ModelPair

Same = Callable[[DistillRun, DistillRun], None]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "device": lambda: torch.device("meta"),
    "deterministic": deterministic,
}


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_is_set_around_a_training_changes_nothing(
    name: str, precision: str, tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, assert_same: Same
) -> None:
    recipe = dataclasses.replace(tiny_recipe, epochs=2, precision=precision)

    def run() -> DistillRun:
        return distill(tiny_pair, tiny_task, "subdistill", recipe, device="cpu")

    outside = run()
    with AMBIENT[name]():
        before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")
        inside = run()
        assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")) == before
    assert_same(inside, outside)
    assert not any(value.is_inference() for value in inside.student.parameters())


def test_a_classifier_is_trained_inside_no_grad(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, assert_same: Same
) -> None:
    def train() -> DistillRun:
        images = tiny_task.train, tiny_task.validation
        return train_classifier(
            tiny_pair.student, *images, tiny_pair.preprocessing, tiny_recipe, device="cpu", epochs=1
        )

    outside = train()
    with torch.no_grad():
        assert_same(train(), outside)
    assert outside.pair.teacher is outside.pair.student is outside.student


class Dropping(nn.Module):
    """A student with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(3, 8, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer1(x).relu().mean((2, 3))))


@pytest.fixture
def dropping(tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe) -> Callable[..., DistillRun]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = dataclasses.replace(tiny_pair, student=Dropping(), layers=())

    def run(**options: object) -> DistillRun:
        return distill(pair, tiny_task, "kd", tiny_recipe, device="cpu", **options)  # type: ignore[arg-type]

    return run


def test_dropout_follows_from_the_seed_and_leaves_the_global_generator(
    dropping: Callable[..., DistillRun], assert_same: Same
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = dropping()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert_same(dropping(), one)
    assert state_hash(dropping(seed=1).student) != state_hash(one.student)


@pytest.mark.parametrize("raising", [True, False])
def test_a_cancelled_training_goes_on_to_the_same_bytes(
    dropping: Callable[..., DistillRun], raising: bool, assert_same: Same, tmp_path: Path
) -> None:
    whole = dropping()

    def cancel(state: EpochState) -> None:
        torch.rand(3)  # whatever it draws
        if raising:
            raise Cancelled("enough")
        state.cancel()

    with pytest.raises(Cancelled, match="training was cancelled after 1 of 3 epochs"):
        dropping(folder=tmp_path, on_epoch=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["resume.pt"]
    seen: list[list[float]] = []

    def epochs(state: EpochState) -> None:
        assert state.row == state.rows[-1]
        seen.append([row["epoch"] for row in state.rows])

    assert_same(dropping(folder=tmp_path, on_epoch=epochs), whole)
    assert seen == [[0, 1], [0, 1, 2]]


def test_each_epoch_is_told_with_the_student_of_that_moment(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    students: list[nn.Module] = []
    rotations: list[str] = []
    rows: list[dict[str, float]] = []

    def look(state: EpochState) -> None:
        students.append(state.student())
        rotations.append(state_hash(state.learned()))
        rows.append(dict(state.row))
        assert state.epochs == 3
        assert 0 < state.row["seconds"] <= state.seconds

    run = distill(tiny_pair, tiny_task, "subdistill", tiny_recipe, fabric=tiny_fabric, on_epoch=look)
    assert rows == run.history.to_dict("records")
    hashes = [state_hash(student) for student in students]
    assert len(set(hashes)) == len(set(rotations)) == 3
    assert hashes[run.best_epoch] == state_hash(run.student)
    assert not any(module.training for student in students for module in student.modules())

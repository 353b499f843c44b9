from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from xaibench.data.tasks import Task
from xaibench.distillation.distill import DistillRun, distill, make_fabric, measure_moments
from xaibench.distillation.methods import KD, Method, StudentOnly, SubDistill
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError, DataError, ModelError
from xaibench.models.checkpoints import state_hash
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits

METHODS = [StudentOnly(), KD(), SubDistill(), SubDistill(centring="mean")]
Job = Callable[..., DistillRun]
Same = Callable[[DistillRun, DistillRun], None]
Interrupt = Callable[[int], AbstractContextManager[None]]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_training_lowers_the_loss_and_the_student_learns(job: Job, method: Method, tiny_task: Task) -> None:
    run = job(method, epochs=20, lr=5e-3, augment="none")
    losses = run.history["loss"]
    assert len(losses) == 20
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]
    assert run.validation_accuracy > 0.5
    if isinstance(method, SubDistill):
        layers = [name for name in run.history if name.startswith("layer")]
        assert len(layers) == 4
        assert (run.history[layers].iloc[-1] < 0.9 * run.history[layers].iloc[0]).all()
    assert repr(run).startswith(f"DistillRun({method.name}")


def test_the_best_epoch_is_kept_the_first_on_a_tie(job: Job, tiny_pair: ModelPair, tiny_task: Task) -> None:
    run = job(KD(), epochs=8, lr=3e-3)
    accuracy = run.history["validation_accuracy"]
    assert run.best_epoch == accuracy.idxmax()
    assert accuracy.duplicated().any()
    assert not run.student.training
    logits = predict_logits(run.student, tiny_task.validation, tiny_pair.preprocessing)
    assert (
        (logits.argmax(1) == tiny_task.validation.labels).double().mean() == accuracy.max() == run.validation_accuracy
    )
    teacher = predict_logits(tiny_pair.teacher, tiny_task.validation, tiny_pair.preprocessing)
    agreement = (logits.argmax(1) == teacher.argmax(1)).double().mean().item()
    assert run.history["validation_agreement"][run.best_epoch] == agreement


def test_the_same_seed_gives_the_same_bytes(job: Job, assert_same: Same) -> None:
    torch.manual_seed(1)
    one = job(SubDistill(), seed=5)
    torch.manual_seed(2)
    assert_same(one, job(SubDistill(), seed=5))
    assert state_hash(job(SubDistill(), seed=6).student) != state_hash(one.student)


def test_a_cached_teacher_trains_as_the_live_one_on_the_same_views(job: Job) -> None:
    live = job(SubDistill(), views=2, cache_gb=0)
    cached = job(SubDistill(), views=2)
    histories = [run.history.drop(columns="seconds") for run in (cached, live)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-3)
    for name, value in cached.student.state_dict().items():
        want = live.student.state_dict()[name]
        assert (value - want).abs().max() <= 1e-3 * want.abs().max()
    fresh = job(SubDistill())
    assert (fresh.history["loss"] - live.history["loss"]).abs()[2] > 1e-3 * live.history["loss"][2]


class Counter:
    def __init__(self) -> None:
        self.images = 0

    def __call__(self, _module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        self.images += len(arguments[0])

    def __deepcopy__(self, _memo: object) -> Counter:
        return self


@pytest.mark.parametrize(
    ("method", "changes", "passes", "probe"),
    [
        (StudentOnly(), {}, 0, 0),  # the validation images alone, for the agreement
        (KD(), {}, 3, 0),  # live, each epoch
        (KD(), {"augment": "none"}, 1, 2),  # two images tell the size of the cache
        (KD(), {"views": 2}, 2, 2),
        (KD(), {"views": 2, "cache_gb": 0}, 3, 2),  # over the budget, hence live
        (SubDistill(), {"views": 2}, 3, 2),  # and one for the moments
        (SubDistill(layer_weight=0), {"views": 2}, 2, 2),
    ],
    ids=str,
)
def test_how_often_the_teacher_is_asked(
    job: Job, tiny_pair: ModelPair, tiny_task: Task, method: Method, changes: dict[str, object], passes: int, probe: int
) -> None:
    counter = Counter()
    handle = tiny_pair.teacher.register_forward_pre_hook(counter)
    job(method, **changes)
    handle.remove()
    assert counter.images == passes * len(tiny_task.train) + probe + len(tiny_task.validation)


@pytest.mark.parametrize(("drop_last", "batch_size", "images"), [(False, 16, 48), (False, 20, 48), (True, 20, 40)])
def test_the_last_batch_is_dropped_where_that_is_asked_for_and_it_is_smaller(
    job: Job, tiny_pair: ModelPair, tiny_task: Task, drop_last: bool, batch_size: int, images: int
) -> None:
    assert len(tiny_task.train) == 48
    counter = Counter()
    tiny_pair.student.register_forward_pre_hook(counter)
    job(StudentOnly(), epochs=2, batch_size=batch_size, drop_last=drop_last)
    assert counter.images == 2 * (images + len(tiny_task.validation))


def test_whole_batches_are_trained_on_alike_whether_the_last_is_dropped(job: Job, assert_same: Same) -> None:
    assert_same(job(KD(), epochs=2), job(KD(), epochs=2, drop_last=True))


def test_too_few_images_for_a_whole_batch_are_refused(job: Job) -> None:
    with pytest.raises(DataError, match=r"48 training images do not fill a batch of 64: .* or drop_last = false"):
        job(KD(), batch_size=64, drop_last=True)


def test_moments_that_were_measured_before_are_used(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric, job: Job, assert_same: Same
) -> None:
    moments = measure_moments(tiny_pair, tiny_task.train, tiny_fabric)
    once = iter([moments])
    counter = Counter()
    handle = tiny_pair.teacher.register_forward_pre_hook(counter)
    again = distill(tiny_pair, tiny_task, SubDistill(), tiny_recipe, measure=lambda: next(once), fabric=tiny_fabric)
    handle.remove()
    assert counter.images == 3 * len(tiny_task.train) + len(tiny_task.validation)
    assert_same(again, job(SubDistill()))


def describe(model: nn.Module) -> tuple[object, ...]:
    flags = [(p.requires_grad, p.grad is None, p.is_contiguous()) for p in model.parameters()]
    return state_hash(model), flags, [(m.training, len(m._forward_hooks)) for m in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_the_pair_is_left_as_it_was(
    job: Job, tiny_pair: ModelPair, training: bool, interrupted_after: Interrupt
) -> None:
    tiny_pair.student.train(training)
    before = describe(tiny_pair.teacher), describe(tiny_pair.student)
    run = job(SubDistill())
    assert (describe(tiny_pair.teacher), describe(tiny_pair.student)) == before
    assert run.hashes["student"] == state_hash(tiny_pair.student) != state_hash(run.student)
    with interrupted_after(2):
        job(SubDistill())
    assert (describe(tiny_pair.teacher), describe(tiny_pair.student)) == before


def test_a_loss_that_is_not_finite_is_an_error(job: Job) -> None:
    with pytest.raises(DataError, match=r"the training loss is not finite in epoch \d .*: lower the learning rate"):
        job(StudentOnly(), lr=1e30)


def test_a_task_of_other_classes_is_refused(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    pair = dataclasses.replace(tiny_pair, classes=("top", "middle", "bottom"))
    with pytest.raises(ModelError, match=r"the pair decides between .* but the task between"):
        distill(pair, tiny_task, KD(), tiny_recipe, fabric=tiny_fabric)


def test_learning_rates_follow_the_schedule(job: Job) -> None:
    steps = job(StudentOnly(), epochs=5, step_size=2, lr=1e-3)
    assert steps.history["lr"].tolist() == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4])
    cosine = job(StudentOnly(), epochs=4, schedule="cosine", lr=1e-3)
    assert cosine.history["lr"].tolist() == pytest.approx([1e-3, 0.8535534e-3, 0.5e-3, 0.1464466e-3])


def test_a_single_image_left_over_is_skipped(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    task = dataclasses.replace(tiny_task, train=tiny_task.train.take(range(17)))
    run = distill(tiny_pair, task, KD(), tiny_recipe, fabric=tiny_fabric)
    assert run.history["loss"].notna().all()
    with pytest.raises(DataError, match=r"1 training images do not fill a batch of 2: use a larger fraction$"):
        distill(
            tiny_pair,
            dataclasses.replace(tiny_task, train=tiny_task.train.take([0])),
            KD(),
            tiny_recipe,
            fabric=tiny_fabric,
        )


def test_the_tiny_teacher_is_a_good_one(tiny_pair: ModelPair, tiny_task: Task) -> None:
    logits = predict_logits(tiny_pair.teacher, tiny_task.test, tiny_pair.preprocessing)
    assert (logits.argmax(1) == tiny_task.test.labels).double().mean() > 0.8


@pytest.mark.parametrize(("precision", "rtol"), [("32-true", 2e-5), ("bf16-mixed", 0.1)])
def test_moments_do_not_depend_on_the_batches(
    tiny_pair: ModelPair, tiny_task: Task, precision: str, rtol: float
) -> None:
    fabric = make_fabric(Recipe(precision=precision), "cpu")
    whole = measure_moments(tiny_pair, tiny_task.train)
    parts = measure_moments(tiny_pair, tiny_task.train, fabric, batch_size=20)
    assert list(parts) == ["layer1", "layer2", "layer3", "layer4"]
    for layer, want in whole.items():
        assert parts[layer].count == want.count
        for name in ("mean", "activation", "gradient", "cross"):
            have, wanted = getattr(parts[layer], name), getattr(want, name)
            assert (have - wanted).abs().max() < rtol * wanted.abs().max()
    assert list(measure_moments(tiny_pair, tiny_task.train, layers=("layer2",))) == ["layer2"]


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot train on 1 device\(s\) of accelerator 'abacus'"):
        make_fabric(Recipe(precision="32-true"), "abacus")

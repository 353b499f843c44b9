"""Would the scores notice? The embedded teacher against itself, a student that learned nothing, and distilled ones."""

from __future__ import annotations

import pytest
import torch

from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.result import Attribution
from xaibench.attribution.targets import make_target
from xaibench.data.fashion import embedded
from xaibench.data.tasks import load_task
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import SubDistill
from xaibench.distillation.recipe import Recipe
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.pair import ModelPair
from xaibench.similarity.compare import compare
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explained() -> dict[str, Attribution]:
    """LRP of the teacher and of students with 0, 7 and 10 epochs of SubDistill, for 160 test images."""
    task = load_task("fashion-mnist", "tops", fraction=0.4)
    teacher, card = load_checkpoint(embedded("fashion-mnist/teacher.safetensors"))
    student = build_model("resnet18-cifar:16-16-16-16@16", 4, in_channels=1, seed=0)
    pair = ModelPair.create(
        teacher,
        student,
        classes=task.subtask.classes,
        preprocessing=card.preprocessing,
        teacher_classes=card.classes,
    )
    models = {"teacher": pair.teacher, "0": pair.student}
    for epochs in (7, 10):
        run = distill(pair, task, SubDistill(), Recipe(epochs=epochs, lr=2e-3, views=1), seed=0)
        models[str(epochs)] = run.student
    images = task.test.take(range(0, 800, 5))
    x = card.preprocessing(images.images)
    with torch.no_grad():
        target = make_target(pair.teacher(x), images.labels)
    return {name: explain_model(model, x, target, LRP(), card.preprocessing) for name, model in models.items()}


def test_the_teacher_in_place_of_the_student_scores_one(explained: dict[str, Attribution]) -> None:
    report = compare(explained["teacher"], explained["teacher"], metrics=list(METRICS))
    for metric in METRICS:
        values = report.values(metric).dropna()
        assert len(values) > 5, metric
        assert (values == 1).all(), metric


@pytest.mark.parametrize("metric", DEFAULT_METRICS)
def test_a_student_that_learned_nothing_falls_into_the_null(explained: dict[str, Attribution], metric: str) -> None:
    report = compare(explained["teacher"], explained["0"], metrics=metric)
    assert min(report.lift(metric, over).low for over in ("mismatched images", "shifted maps")) <= 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_distilled_student_is_no_less_alike(explained: dict[str, Attribution], metric: str) -> None:
    shorter, longer = (
        compare(explained["teacher"], explained[epochs], random_student=explained["0"], metrics=metric)
        for epochs in ("7", "10")
    )
    assert shorter.lift(metric, "random student").high >= 0
    lift = longer.lift(metric, "random student")
    assert lift.low > 0 if metric in DEFAULT_METRICS else lift.high >= 0

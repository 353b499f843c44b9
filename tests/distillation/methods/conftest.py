from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.distill import measure_moments
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.pair import ModelPair
from xaibench.subspace import LayerMoments

_SAMPLES = tuple(range(8))


@pytest.fixture(scope="session")
def moments(make_pair: Callable[..., ModelPair], tiny_task: Task, tiny_fabric: Fabric) -> Mapping[str, LayerMoments]:
    return measure_moments(make_pair(), tiny_task.train, tiny_fabric)


@pytest.fixture
def setting(tiny_pair: ModelPair, tiny_task: Task, moments: Mapping[str, LayerMoments]) -> Setting:
    sample = tiny_pair.preprocessing(tiny_task.train.images[:2])
    return Setting(tiny_pair, sample, lambda: moments, tiny_task.train.labels, batch_size=len(_SAMPLES), seed=3)


@pytest.fixture(scope="session")
def evaluate(tiny_task: Task) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """evaluate(criterion, pair, epoch=0, summary=None, rows=0..7) -> its losses and terms of these training images."""

    def run(
        criterion: Criterion,
        pair: ModelPair,
        epoch: int = 0,
        summary: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] = _SAMPLES,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        indices = torch.tensor(rows)
        x, labels = pair.preprocessing(tiny_task.train.images[indices]), tiny_task.train.labels[indices]
        with torch.no_grad():
            if summary is None and criterion.needs_teacher:
                summary = criterion.summarise(forward_with_layers(pair.teacher, x, criterion.teacher_layers))
            student = criterion.observe(forward_with_layers(pair.student, x, criterion.student_layers))
            losses, terms = criterion(student, summary or {}, Batch(indices, labels, epoch))
        return losses, terms

    return run

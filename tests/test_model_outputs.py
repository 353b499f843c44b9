"""Whatever holds a model's logits, everything that is done with the model is as if it returned them alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNetOutputs

import xaibench as xb
from xaibench.attribution.store.keys import model_key
from xaibench.data.images import Preprocessing
from xaibench.data.tasks import Task
from xaibench.distillation.recipe import Recipe
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import untrained
from xaibench.models.folding import folded
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.local_logits import spatial_head
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits

CLASSES = ("middle", "top", "bottom")
TEACHER_CLASSES = ("top", "bottom", "middle", "edges")
PLAIN_METHODS = [name for name in xb.METHODS if name != "influence"]  # which wraps another
HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "alone": lambda z: z,
    "tuple": lambda z: (z, z.sum()),
    "list": lambda z: [z],
    "dict": lambda z: {"loss": None, "logits": z},
    "object": lambda z: SimpleNamespace(logits=z, hidden_states=None),
    "auxiliary": lambda z: GoogLeNetOutputs(z, z + 1, 2 * z),
}


class Holding(nn.Module):
    """The logits of `net` in what `hold` makes of them."""

    def __init__(self, net: nn.Module, hold: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.hold = net, hold

    def forward(self, x: Tensor) -> Any:
        return self.hold(self.net(x))


@pytest.fixture
def pair_of(tiny_teacher: nn.Module, tiny_preprocessing: Preprocessing) -> Callable[..., ModelPair]:
    """pair_of("tuple", "dict") -> the tiny teacher and a student whose logits come in these."""

    def make(teacher: str, student: str) -> ModelPair:
        net = xb.build_model("resnet18-cifar:4-6-8-8@4", len(CLASSES), seed=0)
        models = Holding(tiny_teacher, HOLDERS[teacher]), Holding(net, HOLDERS[student])
        names = {"classes": CLASSES, "teacher_classes": TEACHER_CLASSES}
        return ModelPair.create(*models, preprocessing=tiny_preprocessing, **names)

    return make


@pytest.fixture
def alone(pair_of: Callable[..., ModelPair]) -> ModelPair:
    return pair_of("alone", "alone")


@pytest.fixture(params=[*HOLDERS][1:])
def held(request: pytest.FixtureRequest, pair_of: Callable[..., ModelPair]) -> ModelPair:
    return pair_of(request.param, request.param)


def test_a_pair_is_the_same_pair(alone: ModelPair, held: ModelPair, tiny_task: Task) -> None:
    assert held.layers == alone.layers != ()
    assert held.hashes() == alone.hashes()
    assert held.layer_shapes((12, 12)) == alone.layer_shapes((12, 12))
    for model, other in ((held.teacher, alone.teacher), (held.student, alone.student)):
        logits, wanted = (predict_logits(m, tiny_task.test, held.preprocessing) for m in (model, other))
        assert torch.equal(logits, wanted)
        assert logits.shape == (24, 3)


def test_layers_heads_and_folded_copies_are_the_same(alone: ModelPair, held: ModelPair, tiny_task: Task) -> None:
    x = held.preprocessing(tiny_task.test.images[:4])
    for model, other in ((held.teacher, alone.teacher), (held.student.eval(), alone.student.eval())):
        outputs, wanted = (forward_with_layers(m, x, ("net.layer2",)) for m in (model, other))
        assert torch.equal(outputs.logits, wanted.logits)
        assert torch.equal(outputs.layers["net.layer2"], wanted.layers["net.layer2"])
        assert repr(spatial_head(model, x)) == repr(spatial_head(other, x))
        quick = folded(model, x)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules()) == 0
        torch.testing.assert_close(forward_with_layers(quick, x, ()).logits, wanted.logits)


class MapsAlone(nn.Sequential):
    """A network that ends in global pooling: nothing follows, and the map has a channel a class."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(x).mean((2, 3))}


def test_a_head_without_modules_is_found(noise_images: Tensor) -> None:
    head = spatial_head(MapsAlone(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)), noise_images)
    assert (head.layer, head.channels, head.rest) == ("2", 3, ())


@pytest.fixture
def noise_images() -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", [*PLAIN_METHODS, "influence[kd]:refresh=1,iterations=2"])
def test_a_distilled_student_is_the_same(
    method: str, pair_of: Callable[..., ModelPair], tiny_task: Task, tiny_recipe: Recipe, tiny_fabric: Fabric
) -> None:
    recipe = dataclasses.replace(tiny_recipe, epochs=2)
    pairs = pair_of("alone", "alone"), pair_of("object", "tuple")
    runs = [xb.distill(pair, tiny_task, method, recipe, fabric=tiny_fabric) for pair in pairs]
    histories = [run.history.drop(columns="seconds") for run in runs]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert state_hash(runs[0].student) == state_hash(runs[1].student) != state_hash(pairs[1].student)
    assert runs[1].pair.teacher is pairs[1].teacher


@pytest.mark.parametrize("explainer", xb.EXPLAINERS)
def test_an_explanation_is_the_same(
    explainer: str, pair_of: Callable[..., ModelPair], tiny_task: Task, tmp_path: Path
) -> None:
    images, store = tiny_task.test.take(range(3)), xb.AttributionStore(tmp_path)
    pairs = pair_of("alone", "alone"), pair_of("dict", "object")
    before = [state_hash(model) for model in (pairs[1].teacher, pairs[1].student)]
    wanted, found = (xb.explain(pair, images, explainer, store=store) for pair in pairs)
    for one, other in zip(found, wanted):
        assert one.validity.valid
        assert torch.equal(one.relevance, other.relevance)
    assert [state_hash(model) for model in (pairs[1].teacher, pairs[1].student)] == before


@pytest.mark.slow
def test_scores_controls_and_curves_are_the_same(pair_of: Callable[..., ModelPair], tiny_task: Task) -> None:
    images, seen = tiny_task.test.take(range(3)), []
    for pair in (pair_of("alone", "alone"), pair_of("dict", "tuple")):
        x, null = pair.preprocessing(images.images), untrained(pair.student, seed=5)
        teacher, student = xb.explain(pair, images, "lrp")
        order = student.scored_heatmaps
        curve = xb.flip_curve(pair.student, x, order, student.target, pair.preprocessing, grid=3)
        inside = xb.layer_relevance(pair.teacher, x, teacher.target, xb.LRP(), pair.preprocessing, ["net.layer3"])
        report = xb.compare(pair, images, "lrp", random_student=null)
        seen.append((report.rows, curve.outputs, inside["net.layer3"].relevance, state_hash(null)))
        assert model_key(pair.student) is not None
        alike = xb.assert_explains_alike(pair.with_student(pair.teacher), images, min_cosine=1.0)
        assert alike.score("cosine").mean == 1.0
    pd.testing.assert_frame_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[0][2], seen[1][2])
    assert seen[0][3] == seen[1][3]


NETS = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        maps = self.maps(x).relu()
        return {"logits": self.head(maps.mean((2, 3))), "maps": maps}
"""


RUN = """
methods = ["kd"]
[data]
subtask = "footwear"
fraction = 0.05
[student]
architecture = "nets.py:Net"
[train]
epochs = 1
[explain]
images = 3
explainers = ["lrp"]
[similarity]
metrics = ["cosine"]
"""


@pytest.mark.slow
def test_a_run_of_a_class_in_a_file_and_its_explorer(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "run.toml").write_text(RUN)
    run = xb.run_config(tmp_path / "run.toml", tmp_path / "run")
    assert set(run.scores()["method"]) == {"kd"}
    assert xb.Explorer(run).students == ("kd/seed0",)

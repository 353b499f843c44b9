"""Values that cannot be right, through Python: refused where they are given, in one line, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import xaibench as xb
from xaibench.figures.style import new_figure
from xaibench.models.checkpoints import ModelCard
from xaibench.models.copies import private_copy


@dataclass(frozen=True)
class Given:
    """What the calls below are made with."""

    pair: xb.ModelPair
    task: xb.Task
    folder: Path

    @property
    def images(self) -> xb.ImageSet:
        return self.task.test

    @cached_property
    def x(self) -> Tensor:
        return self.pair.preprocessing(self.images.images[:4])

    @property
    def target(self) -> xb.Target:
        return xb.Target(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2]))

    def create(self, **options: object) -> xb.ModelPair:
        given = {"classes": self.task.subtask.classes, "preprocessing": self.pair.preprocessing}
        return xb.ModelPair.create(self.pair.teacher, self.pair.student, **(given | options))

    def train(self, model: nn.Module, validation: xb.ImageSet | None = None) -> xb.DistillRun:
        validation = self.task.validation if validation is None else validation
        return xb.train_classifier(model, self.task.train, validation, self.pair.preprocessing, epochs=1)

    def relabelled(self, classes: tuple[str, ...]) -> xb.ImageSet:
        images = self.task.validation
        return xb.ImageSet(images.images, images.labels, classes, images.keys, images.source)

    def student(self, classes: int = 3, channels: int = 3) -> nn.Module:
        return xb.build_model("resnet18-cifar:4-4-4-4@4", classes, channels)

    def frozen(self) -> nn.Module:
        return self.student().requires_grad_(False)

    def damaged(self) -> nn.Module:
        model = self.student()
        with torch.no_grad():
            model.conv1.weight[0] = float("nan")
        return model

    @property
    def map(self) -> Tensor:
        return torch.rand(4, 12, 12, generator=torch.Generator().manual_seed(0))


P = torch.full((4, 3), 1 / 3)
EMPTY = pd.DataFrame()
VALUES: dict[str, tuple[str, Callable[[Given], object]]] = {
    "a frozen student": (
        "call student.requires_grad_",
        lambda g: xb.distill(g.pair.with_student(g.frozen()), g.task, "kd", epochs=1),
    ),
    "a frozen classifier": ("call model.requires_grad_", lambda g: g.train(g.frozen())),
    "a classifier in float64": ("give model.float", lambda g: g.train(g.student().double())),
    "a classifier of other images": ("cannot process 12x12 images", lambda g: g.train(g.student(channels=1))),
    "a classifier of more classes": ("has 5 logits but there are 3 classes", lambda g: g.train(g.student(classes=5))),
    "a classifier without weights": ("has no parameters", lambda g: g.train(nn.Flatten())),
    "validation in another order": (
        "in the same order",
        lambda g: g.train(g.student(), g.relabelled(tuple(reversed(g.task.validation.classes)))),
    ),
    "validation of other classes": ("in the same order", lambda g: g.train(g.student(), g.relabelled(("a", "b", "c")))),
    "weights without fractions": (
        "cannot be kept as torch.int32",
        lambda g: xb.save_checkpoint(
            g.folder / "x.safetensors",
            g.student(),
            ModelCard("resnet18-cifar:4-4-4-4@4", ("a", "b", "c"), g.pair.preprocessing),
            torch.int32,
        ),
    ),
    "labels with fractions": (
        "labels must be whole numbers",
        lambda _: xb.functional_comparison(P, P, torch.tensor([0.7, 0.2, 0, 1])),
    ),
    "labels that no class has": (
        "labels from 77 to 77 with 3 classes",
        lambda _: xb.transfer(P, P, P, torch.full((4,), 77)),
    ),
    "labels of a table that no class has": (
        "labels from 3 to 3 with 3 classes",
        lambda _: xb.transfer_table(P, [P], [P], torch.full((4,), 3)),
    ),
    "labels of a reliability curve": ("0 .. K-1", lambda _: xb.reliability(P, torch.arange(4) - 1)),
    "too many bins": ("bins must be 1 to", lambda _: xb.reliability(P, torch.zeros(4, dtype=torch.int64), 10**8)),
    "weights that are not finite": (
        "holds NaN or infinite values",
        lambda g: xb.ModelPair.create(
            g.pair.teacher, g.damaged(), classes=g.pair.classes, preprocessing=g.pair.preprocessing
        ),
    ),
    "a class twice": ("'a' is there twice", lambda g: g.create(classes=("a", "a", "b"))),
    "a layer pair twice": ("layer2:layer2 is there twice", lambda g: g.create(layers=["layer2:layer2", "layer2"])),
    "too many classes for a slice": (
        "has 3 logits but there are 4 classes",
        lambda g: g.create(classes=("a", "b"), teacher_classes=("a", "b", "c", "d")),
    ),
    "a temperature beyond reason": ("KD.temperature must be a number of at most", lambda _: xb.KD(temperature=1e300)),
    "dimensions beyond reason": ("dimensions must be at most 65536", lambda _: xb.CRD(dimensions=10**8)),
    "noise beyond reason": ("SmoothGrad.noise must be a number of at most", lambda _: xb.SmoothGrad(noise=1e15)),
    "beta of iCD": ("beta must be at least 0", lambda _: xb.ICD(beta=-1.0)),
    "an option of a base that is not used": ("unknown NKD variant", lambda _: xb.ICD(base="none", variant="zz")),
    "a warm-up below 0": ("warmup must be at least 0", lambda _: xb.ICD(base="none", warmup=-4)),
    "a layer that is no name": ("GradCAM.layer must be a text", lambda _: xb.GradCAM(layer=-1)),  # type: ignore[arg-type]
    "wrapped without end": ("10 deep at most", lambda _: xb.parse_method("influence[" * 2000 + "kd" + "]" * 2000)),
    "a seed below 0": ("a seed must be between 0 and", lambda _: xb.IntegratedGradients(seed=-1)),
    "a seed of images": ("a seed must be between 0 and", lambda g: g.images.sample(3, seed=-1)),
    "a seed of a model": (
        "a seed must be between 0 and",
        lambda _: xb.build_model("resnet18-cifar:4-4-4-4@4", 3, seed=-1),
    ),
    "a threshold that is a text": (
        "min_cosine must be a number",
        lambda g: xb.assert_explains_alike(g.pair, g.images, min_cosine="x"),
    ),
    "a threshold that is None": (
        "min_cosine must be a number",
        lambda g: xb.assert_explains_alike(g.pair, g.images, min_cosine=None),
    ),
    "a table of something else": ("has no column 'n'", lambda _: xb.power_note(EMPTY)),
    "transfer of something else": ("of a has no column 'D+'", lambda _: xb.transfer_summary({"a": EMPTY})),
    "a family beyond reason": ("a family of tests has 1 to", lambda _: xb.least_units(10**9)),
    "digits beyond reason": (
        "digits must be 0 to 20",
        lambda _: xb.latex_table(pd.DataFrame({"a": [1.0]}), digits=10**9),
    ),
    "no layer": (
        "no layer is named",
        lambda g: xb.layer_relevance(g.pair.student, g.x, g.target, None, g.pair.preprocessing, []),
    ),
    "no direction": (
        "do not fit the 8 channels",
        lambda g: xb.direction_heatmaps(
            g.pair.student, g.x, g.target, None, g.pair.preprocessing, "layer4", torch.zeros(8, 0)
        ),
    ),
    "directions that are not finite": (
        "hold NaN or infinite values",
        lambda g: xb.direction_heatmaps(
            g.pair.student, g.x, g.target, None, g.pair.preprocessing, "layer4", torch.full((8, 1), float("nan"))
        ),
    ),
    "an option of flipping": (
        "unknown option of flipping 'fil'",
        lambda g: xb.cross_flip(g.pair, g.x, g.map, g.map, g.target, fil="blur"),
    ),
    "moments that are none": (
        "what measure gives must be",
        lambda g: xb.distill(g.pair, g.task, "subdistill", measure=lambda: None, epochs=1),
    ),
    "moments of no layer": (
        "gives no moments of 'layer1'",
        lambda g: xb.distill(g.pair, g.task, "subdistill", measure=dict, epochs=1),
    ),
    "a device of another kind": ("write cpu, cuda", lambda g: xb.explain(g.pair, g.images, device="xpu")),
    "images that are sparse": (
        "give x.to_dense()",
        lambda g: xb.explain_model(g.pair.student, g.x.to_sparse(), g.target, "lrp", g.pair.preprocessing),
    ),
    "an explainer that is a number": ("give a value of that kind", lambda g: xb.explore(g.pair, g.images, explainer=3)),
    "a mistyped option of a panel": (
        "did you mean 'explainer'",
        lambda g: xb.Explorer(g.pair, g.images, explaner="lrp"),
    ),
    "memory that is no number": ("memory must be above 0", lambda g: xb.Processes(g.folder, memory=float("nan"))),
    "an accelerator that is none": ("unknown accelerator 'cua'", lambda g: xb.Serial(g.folder, accelerator="cua")),
    "a console that is none": ("must be a Console or None", lambda _: xb.show_progress("x").__enter__()),  # type: ignore[arg-type]
    "a folder for a figure": ("is a folder", lambda g: xb.save_figure(new_figure(1, 1), g.folder)),
    "no format": ("formats is empty", lambda g: xb.save_figure(new_figure(1, 1), g.folder / "x", formats=[])),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_impossible_value_is_one_line(
    name: str, make_pair: Callable[..., xb.ModelPair], tiny_task: xb.Task, tmp_path: Path
) -> None:
    message, call = VALUES[name]
    with pytest.raises(xb.XaibenchError) as caught:
        call(Given(make_pair(), tiny_task, tmp_path))
    said = str(caught.value)
    assert message in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_pairs_own_teacher_can_teach_again(make_pair: Callable[..., xb.ModelPair], tiny_task: xb.Task) -> None:
    """It is a slice of a classifier of more classes: sliced further, layers keep the names of the whole."""
    pair = make_pair()
    again = xb.ModelPair.create(pair.teacher, pair.student, classes=pair.classes, preprocessing=pair.preprocessing)
    assert again.layers == pair.layers
    two = pair.classes[1:]
    part = xb.ModelPair.create(
        pair.teacher,
        xb.build_model("resnet18-cifar:4-4-4-4@4", 2),
        classes=two,
        preprocessing=pair.preprocessing,
        teacher_classes=pair.classes,
    )
    x = pair.preprocessing(tiny_task.test.images[:4])
    with torch.no_grad():
        assert torch.equal(part.teacher(x), pair.teacher(x)[:, 1:])
    assert part.teacher_layers == pair.teacher_layers


def test_a_student_of_which_a_part_is_frozen_keeps_that_part(
    make_pair: Callable[..., xb.ModelPair], tiny_task: xb.Task
) -> None:
    student = private_copy(make_pair().student)
    student.conv1.requires_grad_(False)
    pair = make_pair().with_student(student)
    trained = xb.distill(pair, tiny_task, "kd", epochs=1, batch_size=16, padding=1).student
    assert torch.equal(trained.conv1.weight, student.conv1.weight)
    assert not torch.equal(trained.fc.weight, student.fc.weight)

"""Models of the user's own code: given as modules, or by the name of a file or a module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import nn

from xaibench.data.images import Preprocessing
from xaibench.data.tasks import Task, load_task
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import KD
from xaibench.distillation.recipe import Recipe
from xaibench.errors import CheckpointError, DataError, ModelError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint, save_checkpoint, state_hash
from xaibench.models.own_models import is_own, located
from xaibench.models.pair import LayerPair, ModelPair

CODE = """
import torch

torch.rand(3)

from torch import nn
from blocks import block

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=4):
        super().__init__()
        self.early, self.late = block(in_channels, width), block(width, 2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.head(self.late(self.early(x)).mean((2, 3)))

def grey(num_classes):
    return Net(num_classes, 1)

class Fixed(Net):
    def __init__(self):
        super().__init__(3)

def anything(**options):
    return Net(options["num_classes"])

def failing(num_classes):
    raise KeyError("width\\nmissing")

def no_module(num_classes):
    return [num_classes]
"""
BLOCKS = """
from torch import nn

def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())
"""
CLASSES = ("ant", "bee", "cow")
PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(CODE)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return tmp_path / "nets.py"


def test_a_class_in_a_file_is_built_from_the_seed(code: Path) -> None:
    state, path = torch.get_rng_state(), list(sys.path)
    first, same, other = (build_model(f"{code}:Net", 5, 1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == path
    assert type(first) is type(same)
    assert first.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    assert state_hash(first) == state_hash(same) != state_hash(other)


def test_a_changed_file_is_read_again(code: Path) -> None:
    before = build_model(f"{code}:Net", 3)
    code.write_text(CODE.replace("width=4", "width=6"))
    after = build_model(f"{code}:Net", 3)
    assert [len(model.head.weight[0]) for model in (before, after)] == [8, 12]  # type: ignore[union-attr,index]


@pytest.mark.parametrize("name", ["grey", "Fixed", "anything"])
def test_functions_and_classes_get_what_they_take(code: Path, name: str) -> None:
    model = build_model(f"{code}:{name}", 3)
    assert model.head.out_features == 3  # type: ignore[union-attr]


def test_a_function_of_a_module_that_is_installed() -> None:
    assert build_model("torchvision.models:resnet18", 4).fc.out_features == 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("{code}:Nett", UnknownNameError, "unknown model of .*nets.py 'Nett': did you mean 'Net'"),
        ("{code}:failing", ModelError, r"failing cannot be built \(KeyError: 'width.*\): correct its code"),
        ("{code}:no_module", ModelError, "no_module gives a list, not a torch.nn.Module"),
        ("{code}x.py:Net", ModelError, r"cannot read the model's file .*x\.py \(No such file or directory\)"),
        ("nowhere.at.all:Net", ModelError, r"module 'nowhere.at.all' cannot be imported \(ModuleNotFoundError"),
    ],
)
def test_code_that_gives_no_model(code: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build_model(name.format(code=code), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["def (", "1 / 0", "import nowhere", "raise SystemExit(2)"])
def test_a_file_that_cannot_be_run(code: Path, text: str) -> None:
    code.write_text(text)
    with pytest.raises(ModelError, match=r"nets.py cannot be run \(\w+: .*\): correct its code") as caught:
        build_model(f"{code}:Net", 3)
    assert "\n" not in str(caught.value)
    assert not any(
        name.startswith("nets_") and getattr(m, "__file__", "") == str(code) for name, m in sys.modules.items()
    )


def test_other_names_are_no_code() -> None:
    assert is_own("a/b.py:Net")
    assert is_own("my.nets:Net")
    for name in ("resnet18", "timm/resnet18", "a.py", "resnet18-cifar:4-4-4-4@4", "a.py:", ":Net", "a b:Net"):
        assert not is_own(name)
    assert located("nets.py:Net", "/home/me") == "/home/me/nets.py:Net"
    assert located("/x/nets.py:Net", "/home/me") == "/x/nets.py:Net"
    assert located("nets:Net", "/home/me") == "nets:Net"


def test_a_checkpoint_does_not_make_code_run(code: Path, tmp_path: Path) -> None:
    name = f"{code}:Net"
    model = build_model(name, 3, seed=4)
    path = save_checkpoint(tmp_path / "m.safetensors", model, ModelCard(name, CLASSES, PREPROCESSING))
    marker = tmp_path / "ran"
    code.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n{CODE}")
    with pytest.raises(CheckpointError, match=r"names the code '.*:Net', which a file cannot make run: if you trust"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"holds .*:Net, not resnet18"):
        load_checkpoint(path, "resnet18")
    assert not marker.exists()
    loaded, _ = load_checkpoint(path, name)
    assert marker.exists()
    assert state_hash(loaded) == state_hash(model)


def test_the_code_that_was_asked_for_runs_and_no_other(code: Path, tmp_path: Path) -> None:
    model = build_model(f"{code}:Net", 3)
    card = ModelCard(f"{tmp_path}/elsewhere/nets.py:Net", CLASSES, PREPROCESSING)
    path = save_checkpoint(tmp_path / "m.safetensors", model, card)
    assert state_hash(load_checkpoint(path, f"{code}:Net")[0]) == state_hash(model)
    with pytest.raises(CheckpointError, match="drop or correct the model name"):
        load_checkpoint(path, f"{code}:grey")


@pytest.fixture
def pets(tmp_path: Path) -> Task:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(generator.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return load_task(f"imagefolder:{tmp_path / 'pets'}", validation=0.34)


def test_a_pair_of_own_modules(code: Path, pets: Task) -> None:
    teacher, student = (build_model(f"{code}:Net", 3, seed=seed) for seed in (1, 2))
    pair = ModelPair.load(teacher, student, pets, preprocessing=PREPROCESSING)
    assert pair.layers == (LayerPair("early", "early"), LayerPair("late", "late"))
    assert pair.classes == CLASSES
    assert pair.hashes() == {"teacher": state_hash(teacher), "student": state_hash(student)}
    wider = build_model(f"{code}:Net", 4, seed=1)
    assert ModelPair.load(wider, student, pets, classes=("cow", "x", "bee", "ant"), preprocessing=PREPROCESSING)
    with pytest.raises(ModelError, match="the teacher has 4 logits but there are 3 classes"):
        ModelPair.load(wider, student, pets, preprocessing=PREPROCESSING)
    with pytest.raises(ModelError, match=r"are not known: give preprocessing, as in Preprocessing\(mean="):
        ModelPair.load(teacher, student, pets)
    with pytest.raises(DataError, match="images are 12x12 but the model takes 8x8"):
        ModelPair.load(teacher, student, pets, preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3, (8, 8)))


def test_a_pair_by_names_is_the_one_built_by_hand() -> None:
    task = load_task("fashion-mnist", "tops", fraction=0.1)
    name = "resnet18-cifar:4-4-4-4@4"
    pair = ModelPair.load("embedded:fashion-mnist/teacher.safetensors", name, task, seed=3, layers=["layer1"])
    teacher, card = load_checkpoint("embedded:fashion-mnist/teacher.safetensors")
    student = build_model(name, 4, 1, seed=3)
    by_hand = ModelPair.create(
        teacher,
        student,
        classes=task.subtask.classes,
        preprocessing=card.preprocessing,
        teacher_classes=card.classes,
        layers=["layer1"],
        input_size=(28, 28),
    )
    assert pair.hashes() == by_hand.hashes()
    assert (pair.layers, pair.classes, pair.preprocessing) == (by_hand.layers, by_hand.classes, by_hand.preprocessing)


def test_a_pair_of_a_bare_state_dict_and_own_code(code: Path, pets: Task, tmp_path: Path) -> None:
    model = build_model(f"{code}:Net", 3, seed=1)
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "t.pth")
    about = {"architecture": f"{code}:Net", "classes": list(CLASSES), "preprocessing": PREPROCESSING}
    pair = ModelPair.load(tmp_path / "t.pth", f"{code}:Net", pets, **about)
    assert pair.hashes()["teacher"] == state_hash(model)
    with pytest.raises(CheckpointError, match="does not say what model it holds: give the architecture"):
        ModelPair.load(tmp_path / "t.pth", f"{code}:Net", pets)


@pytest.mark.parametrize(
    "call",
    [
        lambda task, net: ModelPair.load(None, net, task),
        lambda task, net: ModelPair.load(net, None, task),
        lambda task, net: ModelPair.load(net, net, "fashion-mnist"),
        lambda task, net: ModelPair.load(type(net), net, task, preprocessing=PREPROCESSING),
        lambda task, net: ModelPair.load(net, net, task, preprocessing=(0.5, 0.5)),
        lambda task, net: ModelPair.load(net, net, task, classes="abc", preprocessing=PREPROCESSING),
        lambda task, net: ModelPair.load(net, net, task, layers=5, preprocessing=PREPROCESSING),
        lambda task, net: ModelPair.load(net, "resnet18", task, seed="x", preprocessing=PREPROCESSING),
    ],
)
def test_wrong_types_are_one_line(call: Callable[[Task, nn.Module], object], tiny_task: Task) -> None:
    with pytest.raises(ModelError, match=r"ModelPair\.load: \w+ must be") as caught:
        call(tiny_task, nn.Conv2d(3, 3, 1))
    assert "\n" not in str(caught.value)


def test_own_modules_are_distilled_and_left_as_they_were(code: Path, pets: Task, tiny_fabric: Fabric) -> None:
    teacher, student = (build_model(f"{code}:Net", 3, seed=seed) for seed in (1, 2))
    before = [state_hash(model) for model in (teacher, student)]
    pair = ModelPair.load(teacher, student, pets, preprocessing=PREPROCESSING)
    recipe = Recipe(epochs=1, batch_size=6, augment="none", precision="32-true")
    trained = distill(pair, pets, KD(), recipe, fabric=tiny_fabric).student
    assert type(trained) is type(student)
    assert [state_hash(model) for model in (teacher, student)] == before
    assert state_hash(trained) not in before

"""Checkpoints as other people's training scripts write them."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xaibench.data.images import Preprocessing
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import CheckpointError, ModelError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint, load_state, read_state, save_checkpoint, state_hash

NAME = "resnet18-cifar:4-4-4-4@4"
CLASSES = ("cat", "dog", "owl")
PREPROCESSING = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(NAME, 3, seed=5)


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "m.pth")
    return folder / "m.pth"


def load(path: Path, architecture: str = NAME) -> tuple[nn.Module, ModelCard]:
    return load_checkpoint(path, architecture, CLASSES, PREPROCESSING)


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def training(model: nn.Module) -> dict[str, Any]:
    """What training scripts keep beside the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "epoch": 3,
        "best_acc": np.float64(0.5),
        "top1": np.float32(0.25),
        "seen": np.int64(3),
        "loss": torch.tensor(0.5),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, name="x"),
        "scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
    }


@pytest.mark.parametrize(
    ("wrap", "unwrapped"),
    [
        (lambda s, _: s, None),
        (lambda s, _: OrderedDict(s), None),
        (lambda s, _: {"model": s}, "model"),
        (lambda s, _: {"state_dict": s}, "state_dict"),
        (lambda s, _: {"net": s, "acc": 91.5, "epoch": 199}, "net"),
        (lambda s, _: {"model_state_dict": s}, "model_state_dict"),
        (lambda s, _: {"weights": s, "epoch": 1}, "weights"),
        (lambda s, t: {"model": s, **t}, "model"),
        (lambda s, t: {"state_dict": under("module.", s), **t}, "state_dict, module."),
        (lambda s, _: {"state_dict": s, "state_dict_ema": s}, "state_dict"),
        (lambda s, _: under("module.", s), "module."),
        (lambda s, _: under("model.", s), "model."),
        (lambda s, _: under("_orig_mod.", s), "_orig_mod."),
        (lambda s, _: under("module._orig_mod.", s), "module._orig_mod."),
        (lambda s, _: under("student.", s) | {"teacher.conv1.weight": torch.ones(9)}, "student."),
        (lambda s, _: under("module.student.", s) | {"crd.embed.weight": torch.ones(2)}, "module.student."),
    ],
)
def test_what_lies_around_the_weights_is_taken_off_and_named(
    tmp_path: Path, model: nn.Module, wrap: Callable[[State, dict[str, Any]], object], unwrapped: str | None
) -> None:
    loaded, card = load(saved(wrap(model.state_dict(), training(model)), tmp_path))
    assert state_hash(loaded) == state_hash(model)
    assert card.notes == ({} if unwrapped is None else {"unwrapped": unwrapped})


def test_a_teacher_beside_a_student_is_told_by_its_shapes_or_asked_for(tmp_path: Path, model: nn.Module) -> None:
    other = build_model("resnet18-cifar:8-8-8-8@8", 3, seed=1)
    both = under("teacher.", other.state_dict()) | under("student.", model.state_dict())
    path = saved({"model": both}, tmp_path)
    assert state_hash(load(path)[0]) == state_hash(model)
    assert state_hash(load(path, "resnet18-cifar:8-8-8-8@8")[0]) == state_hash(other)
    path = saved(under("teacher.", model.state_dict()) | under("student.", model.state_dict()), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds several models that fit \(teacher\., student\.\): save the state"
    ):
        load(path)


def test_a_prefix_does_not_hide_why_a_file_does_not_fit(tmp_path: Path, model: nn.Module) -> None:
    path = saved(under("module.", model.state_dict()), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"conv1\.weight is \(4, 3, 3, 3\) in the file, \(6, 3, 3, 3\) in the mod"
    ):
        load(path, "resnet18-cifar:4-4-4-4@6")
    with pytest.raises(CheckpointError, match=r"the model lacks conv1\.weight, bn1\.weight"):
        load(path, "squeezenet1_1")


def test_several_state_dicts_are_asked_for(tmp_path: Path, model: nn.Module) -> None:
    path = saved({"generator": model.state_dict(), "critic": model.state_dict()}, tmp_path)
    with pytest.raises(CheckpointError, match=r"holds 2 state dicts \('generator', 'critic'\): save the one meant"):
        load(path)


@pytest.mark.parametrize("name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_both_numpy_versions_are_read(tmp_path: Path, name: str) -> None:
    path = saved({"model": {"w": torch.ones(2)}, "best_acc": np.float64(0.5)}, tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in parts.items():
            archive.writestr(entry, re.sub(rb"numpy\._?core\.multiarray", name.encode(), data))
    assert read_state(path).wrapper == "model"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "m.pt")
    with pytest.raises(
        CheckpointError, match=r"is a TorchScript archive: save the weights alone, as in torch\.save"
    ) as e:
        read_state(tmp_path / "m.pt")
    assert "\n" not in str(e.value)


def test_the_remedy_for_a_whole_pickled_model_is_true(tmp_path: Path, model: nn.Module) -> None:
    path = saved({"model": model, "epoch": 1}, tmp_path)
    with pytest.raises(CheckpointError, match="if you trust the file, load it with weights_only=False and save"):
        load(path)
    state = torch.load(path, weights_only=False)["model"].state_dict()
    assert state_hash(load(saved(state, tmp_path))[0]) == state_hash(model)


class Tied(nn.Module):
    """Two layers with one weight, and a view of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.register_buffer("table", torch.arange(12.0))
        self.register_buffer("row", self.table[3:6])


def test_layers_that_share_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    model = Tied()
    with torch.no_grad():
        model.a.weight.copy_(torch.arange(9.0).view(3, 3))
    path = save_checkpoint(tmp_path / "m.safetensors", model, ModelCard("own", CLASSES, PREPROCESSING))
    loaded = Tied()
    load_state(loaded, read_state(path).state, "m")
    assert loaded.b.weight is loaded.a.weight
    assert state_hash(loaded) == state_hash(model)
    one = load_file(path)
    del one["b.weight"]
    save_file(one, tmp_path / "one.safetensors")
    again = Tied()
    load_state(again, read_state(tmp_path / "one.safetensors").state, "one")
    assert state_hash(again) == state_hash(model)


class Extra(nn.Module):
    def get_extra_state(self) -> object:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def test_a_model_that_saves_more_than_tensors_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'0\._extra_state' of Sequential is a dict, and only tensors are saved"):
        save_checkpoint(tmp_path / "m", nn.Sequential(Extra()), ModelCard("own", CLASSES, PREPROCESSING))


@pytest.mark.parametrize(("name", "head"), [("googlenet", "aux1.fc2"), ("inception_v3", "AuxLogits.fc")])
def test_weights_of_auxiliary_classifiers_are_left_out(tmp_path: Path, name: str, head: str) -> None:
    model = build_model(name, 3, seed=2)
    state = model.state_dict() | {f"{head}.weight": torch.ones(3, 4), f"{head}.bias": torch.ones(3)}
    assert state_hash(load(saved(state, tmp_path), name)[0]) == state_hash(model)


def test_what_comes_with_xaibench_is_a_checkpoint_by_name() -> None:
    _, card = load_checkpoint("embedded:fashion-mnist/teacher.safetensors")
    assert card.classes == CLASS_LISTS["fashion-mnist"]


def test_a_card_holds_each_class_once() -> None:
    with pytest.raises(ModelError, match="two classes of resnet18 are named 'cat': give each its own name"):
        ModelCard("resnet18", ("cat", "dog", "cat"), PREPROCESSING)


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_checkpoint(None),
        lambda: load_checkpoint("a.pth", 3),
        lambda: load_checkpoint("a.pth", NAME, "abc"),
        lambda: load_checkpoint("a.pth", NAME, CLASSES, (0.5, 0.5)),
        lambda: save_checkpoint("a", None, None),
        lambda: ModelCard(NAME, CLASSES, None),
        lambda: ModelCard(NAME, "abc", PREPROCESSING),
        lambda: state_hash(nn.Linear),
        lambda: build_model(None, 3),
        lambda: build_model(NAME, "3"),
        lambda: build_model(NAME, 3, seed="x"),
    ],
)
def test_wrong_types_are_one_line(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        call()
    assert type(caught.value).__module__ == "xaibench.errors"
    assert "\n" not in str(caught.value)

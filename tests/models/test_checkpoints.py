from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xaibench.data.images import Preprocessing
from xaibench.errors import CheckpointError, ModelError, RunFolderError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint, read_state, save_checkpoint, state_hash
from xaibench.models.class_slice import ClassSlice

NAME = "resnet18-cifar:4-4-4-4@4"
CLASSES = ("cat", "dog", "Zebra ä")
PREPROCESSING = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (12, 14))
CARD = ModelCard(NAME, CLASSES, PREPROCESSING, {"accuracy": 0.5})


@pytest.fixture
def model() -> nn.Module:
    model = build_model(NAME, 3)
    model.train()(torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def test_what_is_saved_comes_back(tmp_path: Path, model: nn.Module) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", model, CARD)
    loaded, card = load_checkpoint(path)
    assert card == CARD
    assert state_hash(loaded) == state_hash(model)
    assert not loaded.training
    assert load_checkpoint(path, NAME, CLASSES)[1] == CARD
    x = torch.randn(2, 3, 12, 14)
    assert torch.equal(loaded(x), model(x))


def test_a_timm_model_is_rebuilt_by_its_name(tmp_path: Path) -> None:
    name = "timm/mobilenetv4_conv_small_035"
    model = build_model(name, 3, in_channels=1, seed=4).eval()
    card = ModelCard(name, CLASSES, Preprocessing((0.5,), (0.5,)))
    loaded, read = load_checkpoint(save_checkpoint(tmp_path / "m.safetensors", model, card))
    assert read == card
    assert state_hash(loaded) == state_hash(model)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(loaded(x), model(x))


def test_float16_halves_the_file_and_loads_as_float32(tmp_path: Path, model: nn.Module) -> None:
    full = save_checkpoint(tmp_path / "full.safetensors", model, CARD)
    half = save_checkpoint(tmp_path / "half.safetensors", model, CARD, dtype=torch.float16)
    assert half.stat().st_size < 0.75 * full.stat().st_size
    loaded, _ = load_checkpoint(half)
    for name, value in loaded.state_dict().items():
        want = model.state_dict()[name]
        assert value.dtype == want.dtype
        assert torch.equal(value, want.half().float() if want.is_floating_point() else want)


def test_a_bare_state_dict_needs_name_classes_and_preprocessing(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "m.pth"
    torch.save(model.state_dict(), path)
    loaded, card = load_checkpoint(path, NAME, CLASSES, PREPROCESSING)
    assert state_hash(loaded) == state_hash(model)
    assert card == ModelCard(NAME, CLASSES, PREPROCESSING)
    with pytest.raises(CheckpointError, match="does not say what model it holds: give the architecture"):
        load_checkpoint(path, NAME, CLASSES)


class Malice:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (torch.save, "holds more than tensors and is not loaded, since it could run code"),
        (partial(torch.save, _use_new_zipfile_serialization=False), "holds more than tensors and is not loaded"),
        (lambda value, path: path.write_bytes(pickle.dumps(value)), r"cannot read checkpoint .*no state dict"),
        (lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)), "holds more than tensors"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, save: Callable[[object, Path], object], message: str
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "m.pth"
    save({"fc.weight": Malice(marker)}, path)
    with pytest.raises(CheckpointError, match=message):
        read_state(path)
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)
    assert marker.exists()  # the trap itself works


def test_a_whole_pickled_model_is_refused(tmp_path: Path, model: nn.Module) -> None:
    torch.save(model, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"save model\.state_dict\(\) with torch\.save"):
        read_state(tmp_path / "m.pth")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, model: nn.Module, name: str, keep: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        save_checkpoint(path, model, CARD)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(
        CheckpointError, match=f"cannot read checkpoint .*{name}: corrupt, truncated or no state dict"
    ) as caught:
        load_checkpoint(path, NAME, CLASSES, PREPROCESSING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"this is no checkpoint\n", b"<html>404</html>", bytes(range(256))])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.pth") as caught:
        read_state(tmp_path / "m.pth")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none\.pth: give the path"):
        read_state(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_state(tmp_path)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, torch.ones(3)])
def test_tensors_without_a_state_dict_are_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="is not a state dict"):
        read_state(tmp_path / "m.pth")


def test_a_wrong_architecture_names_the_first_differing_keys_and_shapes(tmp_path: Path, model: nn.Module) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(
        CheckpointError,
        match=r"conv1\.weight is \(4, 3, 3, 3\) in the file, \(6, 3, 3, 3\) in the model.*"
        r"lacks layer1\.0\.downsample\.0\.weight, layer1\.0\.downsample\.1\.weight.* \.\.\.\): check the architecture",
    ):
        load_checkpoint(tmp_path / "m.pth", "resnet18-cifar:4-4-4-4@6", CLASSES, PREPROCESSING)
    with pytest.raises(CheckpointError, match=r"the model lacks conv1\.weight, bn1\.weight, bn1\.bias \.\.\."):
        load_checkpoint(tmp_path / "m.pth", "squeezenet1_1", CLASSES, PREPROCESSING)


def test_a_wrong_number_of_classes_is_refused(tmp_path: Path, model: nn.Module) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(3, 4\) in the file, \(2, 4\) in the model"):
        load_checkpoint(tmp_path / "m.pth", NAME, ("a", "b"), PREPROCESSING)


def test_our_own_file_is_not_mistaken_for_another_model(tmp_path: Path, model: nn.Module) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", model, CARD)
    with pytest.raises(CheckpointError, match=f"holds {NAME}, not resnet18"):
        load_checkpoint(path, "resnet18")
    with pytest.raises(CheckpointError, match=r"trained on 3 classes \(cat, dog, .* not on the 2 given"):
        load_checkpoint(path, classes=("cat", "dog"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = value  # type: ignore[union-attr,index]
    path = save_checkpoint(tmp_path / "m.safetensors", model, CARD)
    with pytest.raises(CheckpointError, match=r"NaN or infinite values in layer2\.0\.conv1\.weight"):
        load_checkpoint(path)


def test_an_unreadable_card_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "m.safetensors", metadata={"xaibench": '{"architecture": 1}'})
    with pytest.raises(CheckpointError, match="unreadable model card"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, model: nn.Module) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", model, CARD)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "m.safetensors", model, CARD)
    assert load_checkpoint(path)[1] == CARD


class Extra(nn.Module):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def get_extra_state(self) -> object:
        return self.value


def test_the_hash_sees_what_else_a_module_saves() -> None:
    assert state_hash(Extra({"version": 1})) == state_hash(Extra({"version": 1})) != state_hash(Extra({"version": 2}))
    assert state_hash(Extra(threading.Lock())) == state_hash(Extra(threading.Lock()))


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*quantize.*:UserWarning")
def test_the_hash_sees_quantised_weights() -> None:
    def quantised(value: float) -> nn.Module:
        layer = nn.Linear(3, 2)
        nn.init.constant_(layer.weight, value)
        nn.init.zeros_(layer.bias)
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer))  # type: ignore[no-any-return]

    assert state_hash(quantised(1.0)) == state_hash(quantised(1.0)) != state_hash(quantised(2.0))


def test_a_lazy_module_has_no_hash_before_it_ran() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ModelError, match=r"'0\.\w+' of Sequential has no values yet: run the model once"):
        state_hash(model)
    model(torch.ones(1, 3))
    assert state_hash(model)


def test_the_hash_of_a_model_stays_what_it_was() -> None:
    """Run folders hold it."""
    layer = nn.Linear(2, 2)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert state_hash(ClassSlice(nn.Sequential(layer, nn.BatchNorm1d(2)), (1,))) == "9d28cae4046410d5"


def test_the_hash_sees_names_types_shapes_and_every_bit() -> None:
    net = nn.Linear(2, 2)
    start = state_hash(net)
    assert start == state_hash(net)
    assert state_hash(nn.Sequential(net)) != start
    assert state_hash(nn.Linear(2, 2).to(torch.float64)) != start
    with torch.no_grad():
        net.bias[1] = torch.nextafter(net.bias[1], torch.tensor(9.0))
    assert state_hash(net) != start

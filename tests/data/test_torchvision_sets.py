"""Sets of torchvision, in small copies of their own file layouts: nothing is downloaded."""

import gzip
import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from xaibench.data.datasets import CLASS_LISTS, dataset_classes, load_dataset
from xaibench.data.tasks import load_task
from xaibench.errors import DataError


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR-100 of 300 + 200 random images: (root, pixels of both splits)."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = {}
    for seed, (split, n) in enumerate((("train", 300), ("test", 200))):
        data = np.random.default_rng(seed).integers(0, 256, (n, 3072)).astype(np.uint8)
        pixels[split] = torch.from_numpy(data.reshape(n, 3, 32, 32))
        labels = [i % 100 for i in range(n)]
        (folder / split).write_bytes(pickle.dumps({"data": data, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list(CLASS_LISTS["cifar100"])}))
    # The checksums are those of the real files.
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *args: True)
    return tmp_path, pixels


def test_cifar100(cifar):
    root, pixels = cifar
    people = load_dataset("cifar100", "test", root=root, classes=("woman", "boy"))
    assert people.keys == ("test/00011", "test/00098", "test/00111", "test/00198")
    assert people.labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(people.images, pixels["test"][[11, 98, 111, 198]])


def test_a_superclass_of_cifar100(cifar):
    task = load_task("cifar100", "people", root=cifar[0], validation=0.3)
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 5, 10)
    assert task.train.classes == ("baby", "boy", "girl", "man", "woman")


def test_cifar100_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"CIFAR100 needs root=FOLDER.*download = true"):
        load_dataset("cifar100", "train")
    with pytest.raises(DataError, match=r"cannot open CIFAR100 in .*: check root, or set download = true") as caught:
        load_dataset("cifar100", "train", root=tmp_path)
    assert "\n" not in str(caught.value)


def idx(values):
    values = np.asarray(values, np.uint8)
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">i4").tobytes() + values.tobytes()


def test_mnist_stays_grey(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    for stem in ("train", "t10k"):
        for kind, values in (("images-idx3", pixels), ("labels-idx1", np.arange(20) % 10)):
            (folder / f"{stem}-{kind}-ubyte").write_bytes(idx(values))
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    images = load_dataset("torchvision:mnist", "train", root=tmp_path)
    assert images.classes[7] == "7 - seven"
    np.testing.assert_array_equal(images.images[:, 0].numpy(), pixels)


@pytest.fixture
def eurosat(tmp_path):
    """Two classes of eleven images; the set has no split of its own."""
    rng = np.random.default_rng(0)
    for name in ("Forest", "River"):
        folder = tmp_path / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for i in range(11):
            Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return tmp_path


def test_a_set_without_splits_is_split_by_position(eurosat):
    train, test = (load_dataset("torchvision:EuroSAT", split, root=eurosat) for split in ("train", "test"))
    positions = {key.split("/")[1] for key in train.keys} | {key.split("/")[1] for key in test.keys}
    assert (len(train), len(test), len(positions)) == (17, 5, 22)
    assert test.keys == tuple(f"test/{i:05d}" for i in (0, 5, 10, 15, 20))
    assert train.classes == ("Forest", "River")
    assert {i.numpy().tobytes() for i in train.images}.isdisjoint(i.numpy().tobytes() for i in test.images)


def test_a_damaged_file_of_a_set(eurosat):
    (eurosat / "eurosat" / "2750" / "River" / "03.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cannot read image train/00014 of EuroSAT.*fetch the set again"):
        load_dataset("torchvision:EuroSAT", "train", root=eurosat)
    assert len(load_dataset("torchvision:EuroSAT", "train", root=eurosat, classes=["Forest"])) == 8


def test_grey_pictures_in_a_colour_set_and_sizes_that_differ(eurosat):
    path = eurosat / "eurosat" / "2750" / "River" / "03.png"
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).save(path)
    assert load_dataset("torchvision:EuroSAT", "train", root=eurosat).shape == (3, 6, 6)
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"EuroSAT train/00014 is 9x7 \(height x width\) but .* is 6x6: give size"):
        load_dataset("torchvision:EuroSAT", "train", root=eurosat)
    assert load_dataset("torchvision:EuroSAT", "train", root=eurosat, size=(4, 5)).shape == (3, 4, 5)


class Numbers:
    """A set that keeps its labels to itself."""

    def __init__(self, root: str, split: str, download: bool = False) -> None:
        self.count = 12 if split == "train" else 6

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.random.default_rng(i).integers(0, 256, (5, 5, 3)).astype(np.uint8)), i % 3


def test_labels_and_class_names_of_a_set_that_tells_neither(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "SVHN", Numbers)
    assert dataset_classes("torchvision:SVHN", tmp_path) == ("0", "1", "2")
    found = load_dataset("torchvision:SVHN", "test", root=tmp_path, classes=["2", "0"])
    assert found.keys == ("test/00000", "test/00002", "test/00003", "test/00005")
    assert found.labels.tolist() == [1, 0, 1, 0]

"""Names, the embedded set, selection of classes and the refusal of useless images."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from xaibench.data import fashion
from xaibench.data.datasets import (
    CLASS_LISTS,
    TORCHVISION,
    dataset_classes,
    embedded,
    load_dataset,
    preprocessing_for,
)
from xaibench.errors import DataError, UnknownNameError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION = CLASS_LISTS["fashion-mnist"]


@pytest.mark.parametrize(
    ("split", "per_class", "content"), [("train", 1000, "9c26b29a4ac56bc5"), ("test", 200, "cebb1278dc03a51b")]
)
def test_the_embedded_set(split, per_class, content):
    images = load_dataset("fashion-mnist", split)
    assert images.images.shape == (10 * per_class, 1, 28, 28)
    assert images.labels.bincount().tolist() == [per_class] * 10
    assert len(set(images.keys)) == len(images)
    assert images.keys[0].startswith(split)
    assert images.classes == FASHION
    assert images.content_hash() == content  # of the original's first images, which the next test but one compares


def test_embedded_splits_share_no_image():
    train, test = ({i.numpy().tobytes() for i in load_dataset("fashion-mnist", s).images} for s in ("train", "test"))
    assert not train & test


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
@pytest.mark.parametrize(("split", "per_class"), [("train", 1000), ("test", 200)])
def test_the_embedded_set_is_the_start_of_the_original(split, per_class):
    full, small = load_dataset("fashion-mnist-full", split, root=DEBIAN), load_dataset("fashion-mnist", split)
    assert len(full) == {"train": 60_000, "test": 10_000}[split]
    for label in range(10):
        first = (full.labels == label).nonzero().flatten()[:per_class]
        assert torch.equal(full.images[first], small.images[small.labels == label])


def test_known_mean_and_std_are_those_of_the_pixels():
    """The constants are those of the whole set; the subset's come close."""
    pixels = load_dataset("fashion-mnist", "train").images.float() / 255
    prep = preprocessing_for("fashion-mnist")
    assert prep.mean[0] == pytest.approx(float(pixels.mean()), abs=0.005)
    assert prep.std[0] == pytest.approx(float(pixels.std()), abs=0.005)


@pytest.mark.parametrize(
    ("name", "channels", "mean"),
    [
        ("fashion-mnist-full", 1, 0.2860),
        ("torchvision:fashionmnist", 1, 0.2860),
        ("torchvision:KMNIST", 1, 0.5),
        ("cifar100", 3, 0.50707516),
        ("torchvision:CIFAR10", 3, 0.4914),
        ("torchvision:SVHN", 3, 0.485),
        ("imagefolder:anywhere", 3, 0.485),
    ],
)
def test_preprocessing_of_names(name, channels, mean):
    assert (preprocessing_for(name).channels, preprocessing_for(name).mean[0]) == (channels, mean)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-minst", "unknown dataset 'fashion-minst': did you mean 'fashion-mnist'"),
        ("cifar10", "unknown dataset 'cifar10': did you mean 'cifar100'"),
        ("imagefolder", "unknown dataset 'imagefolder': did you mean 'imagefolder:PATH'"),
        ("imagefolder:", "unknown dataset 'imagefolder:'"),
        ("torchvision:", "unknown dataset 'torchvision:'"),
        ("torchvision:SVNH", "unknown torchvision dataset 'SVNH': did you mean 'SVHN'"),
        ("torchvision:CocoDetection", "unknown torchvision dataset 'CocoDetection'"),
    ],
)
@pytest.mark.parametrize("function", [dataset_classes, preprocessing_for, lambda name: load_dataset(name, "train")])
def test_unknown_datasets(function, name, message):
    with pytest.raises(UnknownNameError, match=message):
        function(name)


def test_a_folder_by_its_path_alone(tmp_path):
    with pytest.raises(DataError, match=f"'{tmp_path}' is a folder: write imagefolder:{tmp_path} to load"):
        load_dataset(str(tmp_path), "train")


def test_classes_are_labelled_in_the_order_given():
    whole = load_dataset("fashion-mnist", "test")
    chosen = load_dataset("fashion-mnist", "test", classes=["Sneaker", "Dress"])
    assert chosen.classes == ("Sneaker", "Dress")
    for label, name in enumerate(chosen.classes):
        wanted = whole.images[whole.labels == FASHION.index(name)]
        assert torch.equal(chosen.images[chosen.labels == label], wanted)
    assert all(key in whole.keys for key in chosen.keys)
    key = chosen.keys[-1]
    assert torch.equal(chosen.images[-1], whole.images[whole.keys.index(key)])


def test_resizing():
    plain = load_dataset("fashion-mnist", "test", classes=["Bag", "Coat"])
    same = load_dataset("fashion-mnist", "test", classes=["Bag", "Coat"], size=(28, 28))
    half = load_dataset("fashion-mnist", "test", classes=["Bag", "Coat"], size=(14, 14))
    assert torch.equal(plain.images, same.images)
    assert half.images.shape == (400, 1, 14, 14)
    means = plain.images.float().mean((1, 2, 3)), half.images.float().mean((1, 2, 3))
    torch.testing.assert_close(*means, rtol=0.05, atol=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "valid"}, UnknownNameError, "unknown split 'valid'.*train, test"),
        ({"classes": ["Dres"]}, UnknownNameError, "unknown class 'Dres': did you mean 'Dress'"),
        ({"classes": ["Bag", "Bag"]}, DataError, "classes must be one or more different names"),
        ({"classes": []}, DataError, "classes must be one or more different names"),
        ({"size": (0, 28)}, DataError, r"size must be \(height, width\).*got \(0, 28\)"),
        ({"size": (28,)}, DataError, r"size must be \(height, width\)"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        load_dataset("fashion-mnist", **({"split": "test"} | options))


def test_embedded_files_in_a_wheel_come_first(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "xaibench"
    (package / "data").mkdir(parents=True)
    monkeypatch.setattr(fashion, "__file__", str(package / "data" / "fashion.py"))
    with pytest.raises(DataError, match=r"embedded file .fashion-mnist/test\.png. is missing: reinstall"):
        embedded("fashion-mnist/test.png")
    wheel = package / "_embedded" / "fashion-mnist" / "test.png"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"no picture")
    assert embedded("fashion-mnist/test.png") == wheel
    with pytest.raises(DataError, match=r"is corrupt.*reinstall"):
        load_dataset("fashion-mnist", "test")


def test_the_embedded_set_is_small_and_has_its_notice():
    folder = embedded("fashion-mnist/train.png").parent
    assert sum((folder / f"{split}.png").stat().st_size for split in ("train", "test")) < 5e6
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence


def idx(values):
    values = np.asarray(values, np.uint8)
    return bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">i4").tobytes() + values.tobytes()


def write_fashion(folder, n=20):
    """Four small files in the original format, with random images."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28))
    for stem in ("train", "t10k"):
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n) % 10)))
    return pixels


@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_full_set_from_the_four_files(tmp_path, below):
    pixels = write_fashion(tmp_path / below)
    images = load_dataset("fashion-mnist-full", "test", root=tmp_path)
    np.testing.assert_array_equal(images.images[:, 0].numpy(), pixels)
    assert images.labels.tolist() == [i % 10 for i in range(20)]


def truncated(content):
    return content[: len(content) // 2]


def not_idx(content):
    return gzip.compress(b"something else")


def wrong_length(content):
    return gzip.compress(gzip.decompress(content)[:-5])


@pytest.mark.parametrize("damage", [truncated, not_idx, wrong_length, lambda content: b"", lambda content: b"<html>"])
def test_damaged_original_files(tmp_path, damage):
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{re.escape(str(path))} is corrupt.*fetch it again"):
        load_dataset("fashion-mnist-full", "train", root=tmp_path)


def test_missing_original_files(tmp_path):
    with pytest.raises(DataError, match="needs root=FOLDER"):
        load_dataset("fashion-mnist-full", "train")
    with pytest.raises(DataError, match=r"no .*train-images-idx3-ubyte.gz: put the four"):
        load_dataset("fashion-mnist-full", "train", root=tmp_path)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda n: np.zeros((n, 28, 28)), "every image of .* is blank"),
        (lambda n: np.arange(n)[:, None, None].repeat(28, 1).repeat(28, 2), "every image of .* is blank"),
        (lambda n: np.arange(784).reshape(1, 28, 28).repeat(n, 0) % 256, "all 20 images of .* are the same"),
    ],
)
def test_images_that_teach_nothing(tmp_path, fill, message):
    write_fashion(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(fill(20))))
    with pytest.raises(DataError, match=message):
        load_dataset("fashion-mnist-full", "train", root=tmp_path)


def test_the_table_names_what_torchvision_has():
    import inspect

    import torchvision

    for name, entry in TORCHVISION.items():
        accepted = inspect.signature(getattr(torchvision.datasets, name)).parameters
        for options in entry.splits.values():
            own = set(options) - ({"train"} if name == "EMNIST" else set())  # its other arguments are MNIST's
            assert own <= set(accepted), name
        if entry.splits["train"] == entry.splits["test"]:
            assert not {"train", "split"} & set(accepted), f"{name} has a split of its own"
        if entry.downloads and "kwargs" not in accepted:
            assert "download" in accepted, name


def test_stdout_stays_empty(capsys):
    load_dataset("fashion-mnist", "test")
    assert capsys.readouterr() == ("", "")

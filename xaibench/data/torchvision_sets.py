"""torchvision's classification sets, each with the names of its two splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xaibench.data.folders import UNREADABLE, pixels_of, read_all, upright
from xaibench.data.images import ImageSet
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import DataError, unknown_name

__all__ = ["TORCHVISION", "TorchvisionSet", "torchvision_images", "torchvision_set"]

Options = Mapping[str, Any]


def _by(key: str, train: object, test: object, **more: object) -> dict[str, Options]:
    """The constructor's arguments for the training and the test split."""
    return {"train": MappingProxyType({key: train, **more}), "test": MappingProxyType({key: test, **more})}


_FLAG = _by("train", True, False)
_SPLIT = _by("split", "train", "test")
_VAL = _by("split", "train", "val")
_WHOLE: dict[str, Options] = {"train": MappingProxyType({}), "test": MappingProxyType({})}


@dataclass(frozen=True)
class TorchvisionSet:
    """How to open a set of torchvision.

    splits      the constructor's arguments for "train" and "test"; equal ones mean that the set has no split of its
                own: every fifth image is a test image then
    grey        one channel instead of three
    class_list  key in `CLASS_LISTS`, where torchvision's own names are missing or not unique
    downloads   whether torchvision can download it
    """

    name: str
    splits: Mapping[str, Options] = field(repr=False)
    grey: bool = False
    class_list: str | None = None
    downloads: bool = True

    def open(self, split: str, root: Path | str | None, *, download: bool = False) -> Any:
        """The torchvision dataset of a split. DataError where files are missing, corrupt or cannot be downloaded."""
        if root is None:
            raise DataError(f"{self.name} needs root=FOLDER: where its files are, or where download = true puts them")
        from torchvision import datasets  # slow to import

        options = dict(self.splits[split]) | ({"download": download} if self.downloads else {})
        try:
            return getattr(datasets, self.name)(str(Path(root).expanduser()), **options)
        except (RuntimeError, OSError, ValueError, EOFError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
            remedy = "check root, or set download = true" if self.downloads and not download else "check root"
            raise DataError(f"cannot open {self.name} in {root} ({reason}): {remedy}") from error

    def classes(self, root: Path | str | None, *, download: bool = False) -> tuple[str, ...]:
        """Class names in label order; "0", "1", ... where the set has none."""
        if self.class_list is not None:
            return CLASS_LISTS[self.class_list]
        data = self.open("train", root, download=download)
        names = getattr(data, "classes", None) or getattr(data, "categories", None)
        return tuple(map(str, names or range(int(_labels(data).max()) + 1)))


_SETS = (
    TorchvisionSet("CIFAR10", _FLAG),
    TorchvisionSet("CIFAR100", _FLAG, class_list="cifar100"),
    TorchvisionSet("Caltech101", _WHOLE),
    TorchvisionSet("Caltech256", _WHOLE),
    TorchvisionSet("Country211", _SPLIT),
    TorchvisionSet("DTD", _SPLIT),
    TorchvisionSet("EMNIST", _by("train", True, False, split="balanced"), grey=True),
    TorchvisionSet("EuroSAT", _WHOLE),
    TorchvisionSet("FGVCAircraft", _by("split", "trainval", "test")),
    TorchvisionSet("FashionMNIST", _FLAG, grey=True, class_list="fashion-mnist"),
    TorchvisionSet("Flowers102", _SPLIT),
    TorchvisionSet("Food101", _SPLIT),
    TorchvisionSet("GTSRB", _SPLIT),
    TorchvisionSet("ImageNet", _VAL, class_list="imagenet", downloads=False),
    TorchvisionSet("Imagenette", _VAL),
    TorchvisionSet("KMNIST", _FLAG, grey=True),
    TorchvisionSet("MNIST", _FLAG, grey=True),
    TorchvisionSet("OxfordIIITPet", _by("split", "trainval", "test")),
    TorchvisionSet("PCAM", _SPLIT),
    TorchvisionSet("QMNIST", _FLAG, grey=True),
    TorchvisionSet("RenderedSST2", _SPLIT),
    TorchvisionSet("SEMEION", _WHOLE, grey=True),
    TorchvisionSet("STL10", _SPLIT),
    TorchvisionSet("SUN397", _WHOLE),
    TorchvisionSet("SVHN", _SPLIT),
    TorchvisionSet("StanfordCars", _SPLIT, downloads=False),
    TorchvisionSet("USPS", _FLAG, grey=True),
)

TORCHVISION: dict[str, TorchvisionSet] = {entry.name: entry for entry in _SETS}


def torchvision_set(name: str) -> TorchvisionSet:
    """The entry of `TORCHVISION`, whatever the case of `name`; UnknownNameError with the nearest name otherwise."""
    for known, entry in TORCHVISION.items():
        if name.lower() == known.lower():
            return entry
    raise unknown_name("torchvision dataset", name, TORCHVISION)


def torchvision_images(
    entry: TorchvisionSet,
    split: str,
    root: Path | str | None,
    *,
    download: bool,
    available: tuple[str, ...],
    classes: tuple[str, ...],
    size: tuple[int, int] | None,
) -> ImageSet:
    """The images of `classes`, in the set's own order, labelled in the order given; others are not decoded."""
    data = entry.open(split, root, download=download)
    new_label = {available.index(name): label for label, name in enumerate(classes)}
    whole = entry.splits["train"] == entry.splits["test"]
    chosen = [
        (i, new_label[label])
        for i, label in enumerate(_labels(data).tolist())
        if label in new_label and (not whole or (i % 5 == 0) == (split == "test"))
    ]
    keys = tuple(f"{split}/{i:05d}" for i, _ in chosen)
    source = f"{entry.name} {split}"
    if not chosen:
        raise DataError(f"{source} has no images of {', '.join(classes)}: choose other classes")

    def read(k: int) -> npt.NDArray[np.uint8]:
        name = f"image {keys[k]} of {entry.name}"
        try:
            image = upright(data[chosen[k][0]][0])
        except UNREADABLE as error:
            raise DataError(f"cannot read {name} ({type(error).__name__}): fetch the set again") from error
        return pixels_of(image, name, size, grey=entry.grey)

    images = read_all(read, [f"{entry.name} {key}" for key in keys])
    return ImageSet(images, torch.tensor([label for _, label in chosen]), classes, keys, source)


def _labels(data: Any) -> npt.NDArray[np.int64]:
    """Every image's label: from the attribute that holds them, else by reading the images."""
    for name in ("targets", "labels", "_labels", "y"):
        values = np.asarray(getattr(data, name, ()))
        if values.shape == (len(data),):
            return values.astype(np.int64)
    samples = getattr(data, "samples", None) or getattr(data, "_samples", None)
    if samples is not None and len(samples) == len(data):
        return np.array([label for _, label in samples], np.int64)
    return np.array([int(data[i][1]) for i in range(len(data))], np.int64)

"""Datasets by name -> `ImageSet`.

``fashion-mnist``      the embedded subset: 1000 + 200 images a class, no download
``fashion-mnist-full`` all 60000 + 10000, from the four original .gz files in `root`
``cifar100``           through torchvision: an existing `root`, or download=True
``imagefolder:PATH``   PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or val/); a relative PATH lies in `root`
``torchvision:NAME``   a torchvision classification set (`TORCHVISION`), with images of one size or size=(H, W)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xaibench.data.fashion import embedded, embedded_fashion, full_fashion
from xaibench.data.folders import folder_classes, image_folder, resized
from xaibench.data.images import ImageSet, Preprocessing, checked_size
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.data.torchvision_sets import TORCHVISION, torchvision_images, torchvision_set
from xaibench.errors import DataError, unknown_name
from xaibench.validation import checked

__all__ = [
    "CLASS_LISTS",
    "DATASETS",
    "TORCHVISION",
    "dataset_classes",
    "embedded",
    "load_dataset",
    "preprocessing_for",
]

DATASETS = ("fashion-mnist", "fashion-mnist-full", "cifar100", "imagefolder:PATH", "torchvision:NAME")

_IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALISATION = {
    "FashionMNIST": Preprocessing((0.2860,), (0.3530,)),
    "MNIST": Preprocessing((0.1307,), (0.3081,)),
    "CIFAR10": Preprocessing((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": Preprocessing((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
}


def _parse(name: str) -> tuple[str, str]:
    """Kind and rest: ("fashion", "embedded" or "full"), ("imagefolder", PATH) or ("torchvision", NAME)."""
    kind, _, rest = name.partition(":")
    if name == "fashion-mnist":
        return "fashion", "embedded"
    if name == "fashion-mnist-full":
        return "fashion", "full"
    if name == "cifar100":
        return "torchvision", "CIFAR100"
    if kind == "torchvision" and rest:
        return kind, torchvision_set(rest).name
    if kind == "imagefolder" and rest:
        return kind, rest
    if name and Path(name).is_dir():
        raise DataError(f"'{name}' is a folder: write imagefolder:{name} to load PATH/train/CLASS/*.png from it")
    raise unknown_name("dataset", name, DATASETS)


def _folder(path: str, root: Path | str | None) -> Path:
    return Path(root or "").expanduser() / Path(path).expanduser()


@checked
def preprocessing_for(name: str) -> Preprocessing:
    """Mean and std of a known set; ImageNet's for folders and other colour sets, one half for other grey ones.

    Raises UnknownNameError for an unknown dataset.
    """
    kind, rest = _parse(name)
    if kind == "fashion":
        return _NORMALISATION["FashionMNIST"]
    if kind == "torchvision":
        fallback = Preprocessing((0.5,), (0.5,)) if TORCHVISION[rest].grey else _IMAGENET
        return _NORMALISATION.get(rest, fallback)
    return _IMAGENET


@checked
def dataset_classes(name: str, root: Path | str | None = None, *, download: bool = False) -> tuple[str, ...]:
    """The class names of a dataset, in label order.

    Raises UnknownNameError for an unknown dataset and DataError for files that are missing or corrupt.
    """
    kind, rest = _parse(name)
    if kind == "fashion":
        return CLASS_LISTS["fashion-mnist"]
    if kind == "torchvision":
        return TORCHVISION[rest].classes(root, download=download)
    return folder_classes(_folder(rest, root))


@checked
def load_dataset(
    name: str,
    split: str,
    *,
    root: Path | str | None = None,
    size: Sequence[int] | None = None,
    download: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Load one split ("train" or "test") as bytes: (N, 3, H, W), or (N, 1, H, W) for the grey sets.

    size      (H, W): scale until it is covered, then crop the centre; needed where images differ in size
    classes   keep (and decode) these only, labelled in this order; None keeps all

    Raises UnknownNameError for an unknown dataset, split or class; DataError for missing or corrupt files, images of
    different sizes, and images that are all blank or all the same.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    side = None if size is None else checked_size(size)
    kind, rest = _parse(name)
    available = dataset_classes(name, root, download=download)
    wanted = _chosen(classes, available)
    if kind == "imagefolder":
        return _varied(image_folder(_folder(rest, root), split, wanted, side))
    if kind == "torchvision":
        entry = TORCHVISION[rest]
        return _varied(
            torchvision_images(entry, split, root, download=download, available=available, classes=wanted, size=side)
        )
    found = _keep(embedded_fashion(split) if rest == "embedded" else full_fashion(split, root), wanted)
    if side is not None:
        found = ImageSet(resized(found.images, side), found.labels, found.classes, found.keys, found.source)
    return _varied(found)


def _chosen(classes: Sequence[str] | None, available: tuple[str, ...]) -> tuple[str, ...]:
    wanted = available if classes is None else tuple(classes)
    for label in wanted:
        if label not in available:
            raise unknown_name("class", label, available)
    if len(set(wanted)) < len(wanted) or not wanted:
        raise DataError(f"classes must be one or more different names, got {list(wanted)}")
    return wanted


def _keep(images: ImageSet, wanted: tuple[str, ...]) -> ImageSet:
    """The images of the `wanted` classes, in their old order, with labels that count through `wanted`."""
    if wanted == images.classes:
        return images
    new = torch.full((len(images.classes),), -1)
    new[[images.classes.index(name) for name in wanted]] = torch.arange(len(wanted))
    labels = new[images.labels]
    index = (labels >= 0).nonzero().flatten()
    if len(index) == 0:
        raise DataError(f"{images.source} has no images of {', '.join(wanted)}: choose other classes")
    keys = tuple(images.keys[i] for i in index.tolist())
    return ImageSet(images.images[index], labels[index], wanted, keys, images.source)


def _varied(images: ImageSet) -> ImageSet:
    """Refuse images from which nothing can be learned. Both searches end at the first good image."""
    if all(bool(image.min() == image.max()) for image in images.images):
        raise DataError(f"every image of {images.source} is blank (one value throughout): check the files")
    first = images.images[0]
    if len(images) > 1 and all(torch.equal(image, first) for image in images.images[1:]):
        raise DataError(f"all {len(images)} images of {images.source} are the same: check the files")
    return images

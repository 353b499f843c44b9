"""Datasets by name -> `ImageSet`.

``fashion-mnist``      the embedded subset: 1000 + 200 images a class, no download
``fashion-mnist-full`` all 60000 + 10000, from the four original .gz files in `root`
``cifar100``           through torchvision: an existing `root`, or download=True
``imagefolder:PATH``   PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or val/)
``torchvision:NAME``   any torchvision classification set with images of one size, or size=(H, W)
"""

from __future__ import annotations

import gzip
import inspect
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import CLASS_LISTS, IMAGENET_FOLDERS
from xaibench.errors import DataError, unknown_name

__all__ = ["CLASS_LISTS", "dataset_classes", "embedded", "load_dataset", "preprocessing_for"]

_NAMES = ("fashion-mnist", "fashion-mnist-full", "cifar100", "imagefolder:PATH", "torchvision:NAME")
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
_NORMALISATION = {
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def embedded(name: str) -> Path:
    """Path of a file that comes with xaibench ("fashion-mnist/teacher.safetensors"), in a wheel or a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_embedded", package.parent / "data"):
        if (folder / name).exists():
            return folder / name
    raise DataError(f"the embedded file '{name}' is missing: reinstall xaibench")


def preprocessing_for(name: str) -> Preprocessing:
    """Mean and std of a known set; those of ImageNet for folders and other colour sets."""
    for known, (mean, std) in _NORMALISATION.items():
        if name.removeprefix("torchvision:").lower().replace("fashionmnist", "fashion-mnist").startswith(known):
            return Preprocessing(mean, std)
    return Preprocessing(*_NORMALISATION["imagenet"])


def dataset_classes(name: str, root: Path | str | None = None, *, download: bool = False) -> tuple[str, ...]:
    """The class names of a dataset, in label order."""
    kind, _, rest = name.partition(":")
    if name in ("fashion-mnist", "fashion-mnist-full", "cifar100"):
        return CLASS_LISTS[name.removesuffix("-full")]
    if kind == "imagefolder" and rest:
        return tuple(_folder_classes(_split_folder(Path(rest), "train")))
    if kind == "torchvision" and rest:
        return _torchvision_classes(_torchvision(rest, "train", root, download), rest)
    raise unknown_name("dataset", name, _NAMES)


def load_dataset(
    name: str,
    split: str,
    *,
    root: Path | str | None = None,
    size: tuple[int, int] | None = None,
    download: bool = False,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Load one split ("train" or "test") as bytes.

    size      (H, W): resize so that the shorter side fits, then crop the centre; needed where images differ in size
    classes   keep these only, labelled in this order; None keeps all

    Raises DataError for missing or corrupt files, images of different sizes and images that are all the same.
    """
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    available = dataset_classes(name, root, download=download)
    wanted = tuple(classes) if classes is not None else available
    for label in wanted:
        if label not in available:
            raise unknown_name("class", label, available)
    kind, _, rest = name.partition(":")
    if name == "fashion-mnist":
        found = _embedded_fashion(split)
    elif name == "fashion-mnist-full":
        found = _full_fashion(split, root)
    elif kind == "imagefolder":
        return _not_constant(_image_folder(Path(rest), split, wanted, size))
    else:
        found = _from_torchvision("CIFAR100" if name == "cifar100" else rest, split, root, download, available, size)
    if size is not None and found.shape[1:] != size:
        found = ImageSet(_resized(found.images, size), found.labels, found.classes, found.keys, found.source)
    return _not_constant(_keep(found, wanted))


def _keep(images: ImageSet, wanted: tuple[str, ...]) -> ImageSet:
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


def _not_constant(images: ImageSet) -> ImageSet:
    if bool((images.images == images.images[:1, :1, :1, :1]).all()):
        value = int(images.images[0, 0, 0, 0])
        raise DataError(f"every pixel of {images.source} is {value}: the images are blank; check the files")
    return images


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    resize = torchvision.transforms.v2.functional.resize
    h, w = images.shape[2:]
    scale = max(size[0] / h, size[1] / w)
    shape = [max(size[0], round(h * scale)), max(size[1], round(w * scale))]
    return torchvision.transforms.v2.functional.center_crop(resize(images, shape, antialias=True), list(size))


def _embedded_fashion(split: str) -> ImageSet:
    classes = CLASS_LISTS["fashion-mnist"]
    path = embedded(f"fashion-mnist/{split}.png")
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    per_class = pixels.shape[0] // 28 * (pixels.shape[1] // 28) // len(classes)
    rows, columns = pixels.shape[0] // 28, pixels.shape[1] // 28
    tiles = pixels.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 1, 28, 28)
    labels = torch.arange(len(classes)).repeat_interleave(per_class)
    keys = tuple(f"{split}/{classes[i // per_class]}/{i % per_class:04d}" for i in range(len(tiles)))
    return ImageSet(torch.from_numpy(tiles.copy()), labels, classes, keys, f"fashion-mnist {split}")


def _full_fashion(split: str, root: Path | str | None) -> ImageSet:
    if root is None:
        raise DataError("fashion-mnist-full needs root=FOLDER with the original train-images-idx3-ubyte.gz and its kin")
    stem = "train" if split == "train" else "t10k"
    arrays = []
    for name, header in ((f"{stem}-images-idx3-ubyte.gz", 16), (f"{stem}-labels-idx1-ubyte.gz", 8)):
        path = Path(root) / name
        if not path.is_file():
            raise DataError(f"no {path}: put the four original .gz files of Fashion-MNIST there")
        try:
            with gzip.open(path) as file:
                arrays.append(np.frombuffer(file.read(), np.uint8, offset=header))
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} is corrupt ({error}): fetch it again") from error
    images = torch.from_numpy(arrays[0].reshape(-1, 1, 28, 28).copy())
    keys = tuple(f"{split}/{i:05d}" for i in range(len(images)))
    labels = torch.from_numpy(arrays[1].astype(np.int64))
    return ImageSet(images, labels, CLASS_LISTS["fashion-mnist"], keys, f"fashion-mnist-full {split}")


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"no image folder at {root}: give imagefolder:PATH with PATH/train/CLASS/*.png")
    for name in (split, "val") if split == "test" else (split,):
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no folder '{split}': arrange it as {root}/{split}/CLASS/*.png")


def _folder_classes(folder: Path) -> dict[str, Path]:
    found = {IMAGENET_FOLDERS.get(p.name, p.name): p for p in sorted(folder.iterdir()) if p.is_dir()}
    if not found:
        raise DataError(f"{folder} has no class folders: arrange it as {folder}/CLASS/*.png")
    return found


def _image_folder(root: Path, split: str, wanted: tuple[str, ...], size: tuple[int, int] | None) -> ImageSet:
    base = _split_folder(root, split)
    folders = _folder_classes(base)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(wanted):
        if name not in folders:
            raise DataError(f"{base} has no folder for class '{name}': add it or choose other classes")
        files = sorted(p for p in folders[name].rglob("*") if p.suffix.lower() in _IMAGES)
        if not files:
            raise DataError(f"{folders[name]} holds no images: add some or choose other classes")
        paths += files
        labels += [label] * len(files)
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: _decode(path, size), paths))
    first = images[0].shape
    for path, image in zip(paths, images):
        if image.shape != first:
            raise DataError(
                f"{path} is {image.shape[2]}x{image.shape[1]} but {paths[0]} is {first[2]}x{first[1]}: "
                "give size, as in size = [224, 224]"
            )
    keys = tuple(p.relative_to(root).as_posix() for p in paths)
    return ImageSet(
        torch.from_numpy(np.stack(images)), torch.tensor(labels), wanted, keys, f"imagefolder:{root} {split}"
    )


def _decode(path: Path, size: tuple[int, int] | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read image {path} ({type(error).__name__}): replace or delete it") from error
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if size is not None and pixels.shape[1:] != size:
        pixels = _resized(torch.from_numpy(pixels)[None], size)[0].numpy()
    return pixels


def _torchvision(name: str, split: str, root: Path | str | None, download: bool) -> Any:
    sets = {n.lower(): n for n in torchvision.datasets.__all__}
    if name.lower() not in sets:
        raise unknown_name("torchvision dataset", name, torchvision.datasets.__all__)
    cls = getattr(torchvision.datasets, sets[name.lower()])
    if root is None:
        raise DataError(f"{name} needs root=FOLDER: where its files are, or where download = true puts them")
    accepted = inspect.signature(cls).parameters
    options: dict[str, Any] = {"split": split} if "split" in accepted else {}
    if "train" in accepted:
        options = {"train": split == "train"}
    if "download" in accepted:
        options["download"] = download
    try:
        return cls(str(root), **options)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:150]
        raise DataError(f"cannot open {name} in {root} ({reason}): check root, or set download = true") from error


def _torchvision_classes(data: Any, name: str) -> tuple[str, ...]:
    if getattr(data, "classes", None):
        return tuple(map(str, data.classes))
    labels = getattr(data, "labels", getattr(data, "targets", None))
    if labels is None:
        raise DataError(f"torchvision's {name} does not say what its classes are: export it to an image folder")
    return tuple(str(i) for i in range(int(np.max(np.asarray(labels))) + 1))


def _from_torchvision(
    name: str,
    split: str,
    root: Path | str | None,
    download: bool,
    classes: tuple[str, ...],
    size: tuple[int, int] | None,
) -> ImageSet:
    data = _torchvision(name, split, root, download)
    pixels: list[Tensor] = []
    labels: list[int] = []
    for image, label in data:
        array = torch.from_numpy(np.array(image))
        array = array[None] if array.ndim == 2 else array.permute(2, 0, 1)
        array = _resized(array[None], size)[0] if size is not None else array
        if pixels and array.shape != pixels[0].shape:
            raise DataError(f"images of {name} differ in size: give size, as in size = [224, 224]")
        pixels.append(array)
        labels.append(int(label))
    keys = tuple(f"{split}/{i:05d}" for i in range(len(pixels)))
    return ImageSet(torch.stack(pixels).contiguous(), torch.tensor(labels), classes, keys, f"{name} {split}")

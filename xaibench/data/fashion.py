"""Fashion-MNIST: the subset that comes with xaibench, and the whole set from its original files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xaibench.data.images import ImageSet
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import DataError
from xaibench.validation import checked

__all__ = ["embedded", "embedded_fashion", "full_fashion"]

_CLASSES = CLASS_LISTS["fashion-mnist"]


@checked
def embedded(name: str) -> Path:
    """Path of a file that comes with xaibench ("fashion-mnist/teacher.safetensors"), in a wheel or a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_embedded", package.parent / "data"):
        if os.path.exists(folder / name):  # noqa: PTH110 (Path.exists raises for a name that is too long)
            return folder / name
    raise DataError(f"the embedded file '{name}' is missing: reinstall xaibench")


def embedded_fashion(split: str) -> ImageSet:
    """The first 1000 ("train") or 200 ("test") images of each class, from one sheet of 28x28 tiles a split."""
    path = embedded(f"fashion-mnist/{split}.png")
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the embedded file {path} is corrupt ({type(error).__name__}): reinstall xaibench") from error
    rows, columns = pixels.shape[0] // 28, pixels.shape[1] // 28
    per_class = rows * columns // len(_CLASSES)
    tiles = pixels.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 1, 28, 28)
    labels = torch.arange(len(_CLASSES)).repeat_interleave(per_class)
    keys = tuple(f"{split}/{_CLASSES[i // per_class]}/{i % per_class:04d}" for i in range(len(tiles)))
    return ImageSet(torch.from_numpy(tiles.copy()), labels, _CLASSES, keys, f"fashion-mnist {split}")


def full_fashion(split: str, root: Path | str | None) -> ImageSet:
    """All 60000 ("train") or 10000 ("test") images, from the four original .gz files.

    root  the folder that holds them, or the one given to torchvision's FashionMNIST
    """
    if root is None:
        raise DataError("fashion-mnist-full needs root=FOLDER with the original train-images-idx3-ubyte.gz and its kin")
    stem = "train" if split == "train" else "t10k"
    folder = Path(root).expanduser()
    if (folder / "FashionMNIST" / "raw").is_dir():
        folder = folder / "FashionMNIST" / "raw"
    images = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", dimensions=1)
    keys = tuple(f"{split}/{i:05d}" for i in range(len(images)))
    pixels = torch.from_numpy(images[:, None].copy())
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), _CLASSES, keys, f"fashion-mnist-full {split}")


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of bytes: two zeros, type 8, the number of dimensions, each as a big-endian int32, the values."""
    if not path.is_file():
        raise DataError(f"no {path}: put the four original .gz files of Fashion-MNIST there")
    try:
        with gzip.open(path) as file:
            content = file.read()
        if content[:4] != bytes((0, 0, 8, dimensions)):
            raise ValueError("not an idx file of bytes")
        shape = np.frombuffer(content, ">i4", count=dimensions, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is corrupt ({error}): fetch it again") from error

"""Images from files: decoding, and folders of class folders.

Hidden files and folders (`.ipynb_checkpoints`, `._a.png`) and `__MACOSX` hold copies and previews: they are skipped.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from xaibench.data.images import ImageSet
from xaibench.data.subtasks import IMAGENET_FOLDERS
from xaibench.errors import DataError
from xaibench.progress import progress

__all__ = ["UNREADABLE", "folder_classes", "image_folder", "pixels_of", "read_all", "resized", "upright"]

Pixels = npt.NDArray[np.uint8]

# What Pillow's decoders raise on damaged files.
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}


def folder_classes(root: Path) -> tuple[str, ...]:
    """Class names of ROOT/train/CLASS/*.png, in the order of the folders' names; WordNet ids become class names."""
    return tuple(_class_folders(_split_folder(root, "train")))


def image_folder(root: Path, split: str, classes: Sequence[str], size: tuple[int, int] | None) -> ImageSet:
    """The images of `classes` in ROOT/train or ROOT/test (or ROOT/val), as RGB bytes; keys are paths below ROOT.

    Raises DataError for a missing or empty folder, an unreadable image, and images of different sizes without `size`.
    """
    base = _split_folder(root, split)
    folders = _class_folders(base)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if name not in folders:
            raise DataError(f"{base} has no folder for class '{name}': add it or choose other classes")
        files = sorted(p for p in folders[name].rglob("*") if _is_image(p.relative_to(folders[name])))
        if not files:
            raise DataError(f"{folders[name]} holds no images: add some or choose other classes")
        paths += files
        labels += [label] * len(files)
    keys = tuple(p.relative_to(root).as_posix() for p in paths)
    images = read_all(lambda i: _read(paths[i], size), [str(p) for p in paths])
    return ImageSet(images, torch.tensor(labels), tuple(classes), keys, f"imagefolder:{root} {split}")


def upright(image: Image.Image) -> Image.Image:
    """The decoded picture, turned and mirrored as its EXIF orientation says. Raises what `UNREADABLE` lists."""
    image.load()
    return ImageOps.exif_transpose(image)


def pixels_of(image: Image.Image, name: str, size: tuple[int, int] | None, *, grey: bool = False) -> Pixels:
    """A decoded picture as (3, H, W) bytes, or (1, H, W) if `grey`. Grey is repeated over the channels, alpha dropped.

    Raises DataError for more than 8 bits a channel, which would be cut off silently.
    """
    if image.mode[0] in "IF":
        raise DataError(f"{name} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    pixels = pixels[None] if grey else pixels.transpose(2, 0, 1)
    return pixels if size is None else resized(torch.from_numpy(pixels.copy())[None], size)[0].numpy()


def read_all(read: Callable[[int], Pixels], names: Sequence[str]) -> Tensor:
    """Call `read` for every index in a thread pool; (N, C, H, W) uint8, in the order of `names`.

    Raises DataError as soon as an image differs from the first in size.
    """
    pool = ThreadPoolExecutor()
    try:
        with progress("read images", len(names)) as advance:
            for i, pixels in enumerate(pool.map(read, range(len(names)))):
                if i == 0:
                    images = np.empty((len(names), *pixels.shape), np.uint8)
                if pixels.shape != images.shape[1:]:
                    raise DataError(
                        f"{names[i]} is {pixels.shape[1]}x{pixels.shape[2]} (height x width) but {names[0]} is "
                        f"{images.shape[2]}x{images.shape[3]}: give size, as in size = [224, 224]"
                    )
                images[i] = pixels
                advance()
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(images)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale (N, C, H, W) bytes until they cover `size` (bilinear, antialiased), then crop the centre."""
    h, w = images.shape[2:]
    if (h, w) == tuple(size):
        return images
    scale = max(size[0] / h, size[1] / w)
    covering = (max(size[0], round(h * scale)), max(size[1], round(w * scale)))
    large = F.interpolate(images, covering, mode="bilinear", antialias=True)
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    return large[:, :, top : top + size[0], left : left + size[1]].contiguous()


def _read(path: Path, size: tuple[int, int] | None) -> Pixels:
    try:
        with Image.open(path) as file:
            image = upright(file)
    except UNREADABLE as error:
        raise DataError(f"cannot read image {path} ({type(error).__name__}): replace or delete it") from error
    return pixels_of(image, str(path), size)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not any(map(_is_hidden, path.parts))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _split_folder(root: Path, split: str) -> Path:
    if not os.path.isdir(root):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        raise DataError(f"no image folder at {root}: give imagefolder:PATH with PATH/train/CLASS/*.png")
    for name in (split, "val") if split == "test" else (split,):
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no folder '{split}': arrange it as {root}/{split}/CLASS/*.png")


def _class_folders(base: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(p for p in base.iterdir() if p.is_dir() and not _is_hidden(p.name)):
        name = IMAGENET_FOLDERS.get(path.name, path.name)
        if name in found:
            raise DataError(f"{found[name]} and {path} are both class '{name}': merge them")
        found[name] = path
    if not found:
        raise DataError(f"{base} has no class folders: arrange it as {base}/CLASS/*.png")
    return found

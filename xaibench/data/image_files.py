"""A set of images in one file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from xaibench.data.images import ImageSet
from xaibench.errors import DataError
from xaibench.files import write_atomically

__all__ = ["read_images", "write_images"]


def write_images(path: Path, images: ImageSet) -> Path:
    """Write pixels, labels and keys to a .safetensors file."""
    about = json.dumps({"keys": images.keys, "source": images.source})
    tensors = {"images": images.images.contiguous(), "labels": images.labels}
    return write_atomically(path, lambda partial: save_file(tensors, partial, metadata={"about": about}))


def read_images(path: Path, classes: tuple[str, ...]) -> ImageSet:
    """The images that `write_images` wrote; DataError for a damaged file."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            pixels, labels = file.get_tensor("images"), file.get_tensor("labels")
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} is corrupt ({error})") from error
    return ImageSet(pixels, labels, classes, tuple(about["keys"]), about["source"])

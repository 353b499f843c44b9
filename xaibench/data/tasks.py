"""A subtask's images in three disjoint, seeded splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from xaibench.data.datasets import dataset_classes, load_dataset
from xaibench.data.images import ImageSet
from xaibench.data.subtasks import Subtask, subtask
from xaibench.errors import ConfigError, DataError

__all__ = ["Task", "load_task", "split_train"]


@dataclass(frozen=True, eq=False)
class Task:
    """Training, validation and test images of a subtask. Training and validation come from the set's training split."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    subtask: Subtask
    dataset: str

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} + {len(self.validation)} + {len(self.test)} images"
        return f"Task({self.dataset}, {self.subtask.name}: {', '.join(self.subtask.classes)}; {sizes})"


def load_task(
    dataset: str,
    spec: str | Sequence[str] = "all",
    *,
    root: Path | str | None = None,
    size: tuple[int, int] | None = None,
    download: bool = False,
    fraction: float = 1.0,
    validation: float = 0.2,
    seed: int = 0,
) -> Task:
    """Load the images of a subtask (see `subtask` and `load_dataset` for the names) and split them."""
    chosen = subtask(spec, dataset_classes(dataset, root, download=download))
    full = load_dataset(dataset, "train", root=root, size=size, download=download, classes=chosen.classes)
    test = load_dataset(dataset, "test", root=root, size=size, download=download, classes=chosen.classes)
    train, held_out = split_train(full, fraction=fraction, validation=validation, seed=seed)
    return Task(train, held_out, test, chosen, dataset)


def split_train(
    images: ImageSet, *, fraction: float = 1.0, validation: float = 0.2, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """Split into (training, validation), class by class.

    validation  share of all images that is held out; the same images for every fraction
    fraction    share of the rest that is trained on; a smaller fraction's images are among a larger one's

    Raises ConfigError for shares outside their range, DataError where a class would get no image.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction must be above 0 and at most 1, got {fraction}")
    if not 0 < validation < 1:
        raise ConfigError(f"validation must be above 0 and below 1, got {validation}")
    generator = torch.Generator().manual_seed(seed)
    train, held_out = [], []
    for label, name in enumerate(images.classes):
        members = (images.labels == label).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator)]
        cut = round(validation * len(order))
        keep = round(fraction * (len(order) - cut))
        if cut < 1 or keep < 1:
            raise DataError(
                f"class '{name}' has {len(members)} images, too few for a validation share of {validation} and a "
                f"training fraction of {fraction}: add images or change these shares"
            )
        held_out.append(order[:cut])
        train.append(order[cut : cut + keep])
    return images.take(torch.cat(train).sort().values), images.take(torch.cat(held_out).sort().values)

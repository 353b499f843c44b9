"""A subtask's images in three disjoint, seeded splits."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from xaibench.data.datasets import dataset_classes, load_dataset
from xaibench.data.images import ImageSet, checked_size
from xaibench.data.subtasks import Subtask, subtask
from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.validation import MOST_SEED, checked

__all__ = ["SPLITS", "Task", "load_task", "mislabelled", "split_train"]

SPLITS = ("stratified", "random")

_log = logging.getLogger(__name__)


@checked(error=DataError)
@dataclass(frozen=True, eq=False)
class Task:
    """Training, validation and test images of a subtask. Training and validation come from the set's training split.

    Raises DataError where the three differ in the shape of their images, or in their classes from the subtask's.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    subtask: Subtask
    dataset: str

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            images: ImageSet = getattr(self, name)
            if images.classes != self.subtask.classes:
                raise DataError(
                    f"the {name} images have classes {images.classes!s:.80}, but those of the task are "
                    f"{self.subtask.classes!s:.80}: give all of them the same, in one order"
                )
            if images.shape != self.train.shape:
                raise DataError(
                    f"the {name} images have shape {images.shape}, but the training images {self.train.shape}: "
                    "load both with one size"
                )

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} + {len(self.validation)} + {len(self.test)} images"
        return f"Task({self.dataset}, {self.subtask.name}: {', '.join(self.subtask.classes)}; {sizes})"


@checked
def load_task(
    dataset: str,
    spec: str | Sequence[str] = "all",
    *,
    root: Path | str | None = None,
    size: Sequence[int] | None = None,
    download: bool = False,
    split: str = "stratified",
    fraction: float = 1.0,
    validation: float = 0.2,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Task:
    """Load the images of a subtask (see `subtask` and `load_dataset` for the names) and split them.

    size is that of `load_dataset`; split, fraction and validation are those of `split_train`; label_noise is the share
    of the training images that `mislabelled` changes, validation and test keep their labels; seed, 0 to 2^31 - 1,
    decides who is in which part and who is mislabelled.
    Images that occur in two splits are warned about in the log.

    Raises ConfigError that names all options outside their range, and what the two functions raise.
    """
    wrong = list(_wrong_options(size, fraction, validation, seed, label_noise))
    if wrong:
        raise ConfigError("; ".join(wrong))
    chosen = subtask(spec, dataset_classes(dataset, root, download=download))
    full = load_dataset(dataset, "train", root=root, size=size, download=download, classes=chosen.classes)
    test = load_dataset(dataset, "test", root=root, size=size, download=download, classes=chosen.classes)
    train, held_out = split_train(full, split=split, fraction=fraction, validation=validation, seed=seed)
    _warn_of_copies({"training": train, "validation": held_out, "test": test}, dataset)
    return Task(mislabelled(train, label_noise, seed), held_out, test, chosen, dataset)


@checked
def mislabelled(images: ImageSet, share: float, seed: int = 0) -> ImageSet:
    """The images with round(share * N) labels replaced by one of the other K - 1 classes each, all equally likely.

    `seed` draws images and classes; a smaller share's changes are among a larger one's.
    Raises ConfigError for a share or a seed outside its range.
    """
    wrong = list(_wrong_options(seed=seed, label_noise=share))
    if wrong:
        raise ConfigError("; ".join(wrong))
    if share == 0:
        return images
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
    steps = torch.randint(1, len(images.classes), (len(images),), generator=generator)
    labels = images.labels.clone()
    labels[rows] = (labels[rows] + steps[rows]) % len(images.classes)
    return replace(images, labels=labels)


@checked
def split_train(
    images: ImageSet, *, split: str = "stratified", fraction: float = 1.0, validation: float = 0.2, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """Split into (training, validation).

    split       "stratified": class by class; "random": all classes together, by `torch.utils.data.random_split` of
                [min(1 - validation, fraction), validation, rest] as SubDistill's authors do (2500 images: 2001 + 499)
    validation  share of all images that is held out; if stratified, the same images for every fraction
    fraction    share that is trained on: if stratified, of what is not held out; if random, of all images, at most
                1 - validation. A smaller fraction's images are among a larger one's

    Raises UnknownNameError for an unknown split, ConfigError for shares or a seed outside their range, DataError where
    a class (if random: a part) would get no image.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    wrong = list(_wrong_options(None, fraction, validation, seed))
    if wrong:
        raise ConfigError("; ".join(wrong))
    generator = torch.Generator().manual_seed(seed)
    part = _stratified if split == "stratified" else _random
    train, held_out = part(images, fraction, validation, generator)
    return images.take(train.sort().values), images.take(held_out.sort().values)


def _random(
    images: ImageSet, fraction: float, validation: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    most = 1 - validation
    shares = [min(most, fraction), 1 - most]  # as the authors write it: 1 - .8 is a hair below .2, hence 499 of 2500
    counts = [math.floor(len(images) * share) for share in (*shares, max(0.0, 1 - sum(shares)))]
    for i in range(len(images) - sum(counts)):  # random_split hands out what the floors leave, from the first part on
        counts[i % len(counts)] += 1
    if min(counts[:2]) < 1:
        raise DataError(
            f"{len(images)} images are too few for a validation share of {validation} and a training fraction of "
            f"{fraction}: add images or change these shares"
        )
    train, held_out, _ = torch.randperm(len(images), generator=generator).split(counts)
    return train, held_out


def _stratified(
    images: ImageSet, fraction: float, validation: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
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
    return torch.cat(train), torch.cat(held_out)


def _wrong_options(
    size: Sequence[int] | None = None,
    fraction: float = 1.0,
    validation: float = 0.2,
    seed: int = 0,
    label_noise: float = 0.0,
) -> Iterator[str]:
    """What is wrong with each option."""
    if size is not None:
        try:
            checked_size(size)
        except DataError as error:
            yield str(error)
    if not 0 < fraction <= 1:
        yield f"fraction must be above 0 and at most 1, got {fraction}"
    if not 0 < validation < 1:
        yield f"validation must be above 0 and below 1, got {validation}"
    if not 0 <= label_noise < 1:
        yield f"label_noise must be at least 0 and below 1, got {label_noise}"
    if not 0 <= seed <= MOST_SEED:
        yield f"seed must be 0 to {MOST_SEED}, got {seed}"


def _warn_of_copies(splits: dict[str, ImageSet], dataset: str) -> None:
    met: dict[bytes, tuple[str, str]] = {}
    doubles = []
    for split, images in splits.items():
        own: dict[bytes, tuple[str, str]] = {}
        for key, pixels in zip(images.keys, images.images.numpy()):
            digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
            own[digest] = split, key
            if digest in met:
                doubles.append((met[digest], own[digest]))
        met |= own
    if doubles:
        (split, key), (other, copy) = doubles[0]
        _log.warning(
            "%d images of %s occur in two splits, so that scores on them say too much: %s (%s) and %s (%s) are equal",
            *(len(doubles), dataset, key, split, copy, other),
        )

"""Which images an explorer shows, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError
from xaibench.widgets.answers import mean_defined
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.live import TEACHER, Question
from xaibench.widgets.worker import Turn

__all__ = ["ONLY", "SORTS", "Arranged", "NotScoredError", "ordered"]

Array = npt.NDArray[np.float64]

SORTS = {
    "given": "as given",
    "least alike": "least alike first",
    "most alike": "most alike first",
    "least confident": "teacher least confident first",
    "most confident": "teacher most confident first",
}
"""Orders of the images -> how a selector words them."""

ONLY = {
    "all": "all images",
    "both right": "teacher and students right",
    "student wrong": "teacher right, a student wrong",
    "differing": "predictions differ",
    "undefined": "a map is undefined",
}
"""Which images are shown -> how a selector words it."""


class NotScoredError(ConfigError):
    """The images cannot be sorted by a likeness that is not known of all of them."""


class Arranged(Protocol):
    """Which images are shown in which order: see SORTS and ONLY; `of_class` is "" for all."""

    @property
    def students(self) -> tuple[str, ...]: ...
    @property
    def metric(self) -> str: ...
    @property
    def sign(self) -> str: ...
    @property
    def sort(self) -> str: ...
    @property
    def only(self) -> str: ...
    @property
    def of_class(self) -> str: ...


def ordered(known: Comparison, by: Arranged, question: Question, turn: Turn | None) -> tuple[str, ...]:
    """Keys of the images to show. By likeness: of the mean over the students, undefined last.

    Raises NotScoredError for a likeness that is not known of all images.
    """
    chosen = np.ones(len(known.images), dtype=bool)
    labels = known.images.labels.numpy()
    if by.of_class:
        chosen &= labels == known.classes.index(by.of_class)
    members = list(dict.fromkeys(member for name in by.students for member in known.members(name)))
    if by.only in ("both right", "student wrong", "differing"):
        teacher, *others = (
            np.array([p.predicted for p in known.predictions(name, turn)]) for name in (TEACHER, *members)
        )
        right = np.array([predicted == labels for predicted in others]).reshape(-1, len(labels))
        chosen &= {
            "both right": (teacher == labels) & right.all(axis=0),
            "student wrong": (teacher == labels) & ~right.all(axis=0),
            "differing": np.array([p != teacher for p in others]).reshape(-1, len(labels)).any(axis=0),
        }[by.only]
    if by.only == "undefined":
        chosen &= np.isnan(_every_likeness(known, members, by, question, turn)).any(axis=0)
    places = np.flatnonzero(chosen)
    if by.sort in ("least alike", "most alike") and members:
        mean = mean_defined(list(_every_likeness(known, members, by, question, turn)))[places]
        places = places[np.argsort(mean if by.sort == "least alike" else -mean, kind="stable")]
    if by.sort in ("least confident", "most confident"):
        sure = np.array([p.confidence for p in known.predictions(TEACHER, turn)])[places]
        places = places[np.argsort(sure if by.sort == "least confident" else -sure, kind="stable")]
    return tuple(known.keys[place] for place in places)


def _every_likeness(
    known: Comparison, members: Sequence[str], by: Arranged, question: Question, turn: Turn | None
) -> Array:
    found = [known.likeness(member, question, by.metric, by.sign, turn) for member in members]
    if any(values is None for values in found):
        raise NotScoredError("not all images are explained yet by this question: press 'explain all images' first")
    return np.array(found).reshape(len(members), len(known.images))

"""What an experiment is, and the table that its seeds give together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from xaibench.options import check_types, plain_numbers
from xaibench.similarity.intervals import Interval, seed_interval

__all__ = ["Experiment", "share_text", "summarise"]


class Experiment(ABC):
    """A frozen dataclass whose fields are the experiment's options. It is measured seed by seed.

    name  what it is called on the command line
    keys  columns that say what a value is of; a share in 0..1
    """

    name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        check_types(self)
        plain_numbers(self)

    @property
    @abstractmethod
    def trainings(self) -> int:
        """How many networks `measure` trains, each of which it tells `advance` of."""

    @abstractmethod
    def measure(self, seed: int, advance: Callable[[], object]) -> pd.DataFrame:
        """Everything that one seed gives: the columns `keys` and value."""

    @abstractmethod
    def figure(self, table: pd.DataFrame) -> Figure:
        """Draw what `summarise` made of all seeds."""

    @abstractmethod
    def sentences(self, scores: pd.DataFrame) -> list[str]:
        """What was found, in words, from the rows of all seeds (`keys`, seed, value)."""


def summarise(scores: pd.DataFrame, keys: tuple[str, ...]) -> pd.DataFrame:
    """Mean of a share over the seeds with its 95% t interval, cut at 0 and 1: columns `keys`, mean, low, high, seeds.

    scores  columns `keys`, seed, value
    """
    rows = []
    for names, part in scores.groupby(list(keys), sort=False):
        score = _share(part["value"])
        found = {"mean": score.mean, "low": score.low, "high": score.high, "seeds": score.n}
        rows.append(dict(zip(keys, names)) | found)
    return pd.DataFrame(rows)


def share_text(values: pd.Series) -> str:
    """Mean and interval of a share over the seeds, as it is written in a sentence; the number alone of one seed.

    >>> share_text(pd.Series([0.5, 0.6])), share_text(pd.Series([0.5]))
    ('0.550 [0.000, 1.000]', '0.500')
    """
    score = _share(values)
    return str(score) if score.n > 1 else f"{score.mean:.3f}"


def _share(values: pd.Series) -> Interval:
    return seed_interval(values).within(0, 1)

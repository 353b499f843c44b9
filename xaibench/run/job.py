"""The students of a run, by what makes them: a method and a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from xaibench.distillation.methods import Method, method_name, parse_method
from xaibench.errors import unknown_name

__all__ = ["StudentKey"]


@dataclass(frozen=True)
class StudentKey:
    """A student of a run. `str(key)` is its name, "kd/seed0"; equal methods and seeds make equal keys.

    >>> str(StudentKey.of("kd: temperature=2", 0))
    'kd:temperature=2.0/seed0'
    """

    method: Method
    seed: int

    @classmethod
    def of(cls, method: Method | str, seed: int) -> StudentKey:
        """The key for a method or its text."""
        return cls(parse_method(method) if isinstance(method, str) else method, int(seed))

    @classmethod
    def parse(cls, name: str) -> StudentKey:
        """The key whose `str` is `name`; UnknownNameError for a text without "/seedN"."""
        method, slash, seed = name.rpartition("/seed")
        if not slash or not seed.isdecimal():
            raise unknown_name("student", name, ["METHOD/seedN"])
        return cls.of(method, int(seed))

    @cached_property
    def method_name(self) -> str:
        """The shortest text of the method."""
        return method_name(self.method)

    def __str__(self) -> str:
        return f"{self.method_name}/seed{self.seed}"

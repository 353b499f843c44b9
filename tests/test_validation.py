"""Types at the public edge: one line that names function, parameter, what was given and what is accepted."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from xaibench.errors import ConfigError, ModelError
from xaibench.validation import checked, require, words

if TYPE_CHECKING:
    from decimal import Decimal


@checked
@dataclass(frozen=True)
class Options:
    steps: int = 5
    rate: float = 1.0
    shuffle: bool = False
    label: str = "a"
    mode: Literal["mean", "none"] = "mean"
    limit: int | None = None
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)
    extra: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be above 0, got {self.steps}")


@runtime_checkable
class Worker(Protocol):
    def work(self) -> int: ...


class Bare(Protocol):
    def work(self) -> int: ...


class Bee:
    def work(self) -> int:
        return 1


@checked(error=ModelError)
def train(
    model: nn.Module,
    images: Tensor,
    *rest: int,
    keys: Sequence[str] | None = None,
    folder: Path | str | None = None,
    options: Options | str = "plain",
    call: Callable[[int], int] | None = None,
    device: torch.device | str | None = None,
    worker: Worker | None = None,
    bare: Bare | None = None,
    number: Decimal | None = None,
    stream: Iterable[int] = (),
    weights: Float[Tensor, "n m"] | None = None,  # noqa: F722
    array: np.ndarray | None = None,
    anything: Any = None,
    untyped=None,
    **fields: float,
) -> Mapping[str, float]:
    """Doc."""
    return {"n": float(len(rest)), **fields}


MODEL, X = nn.Identity(), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 10.5}, r"Options.steps must be a whole number, got 10.5 (float)"),
        ({"steps": True}, "Options.steps must be a whole number, got True"),
        ({"steps": 2**70}, "Options.steps must be a whole number, got 11805"),
        ({"steps": torch.tensor(3)}, "Options.steps must be a whole number, got tensor(3) (Tensor)"),
        ({"rate": "a"}, "Options.rate must be a number, got 'a' (str)"),
        ({"rate": False}, "Options.rate must be a number, got False"),
        ({"rate": None}, "Options.rate must be a number, got None"),
        ({"shuffle": 1}, "Options.shuffle must be True or False, got 1 (int)"),
        ({"label": 1}, "Options.label must be a text, got 1 (int)"),
        ({"mode": "peer"}, "Options.mode must be one of 'mean', 'none', got 'peer' (str)"),
        ({"limit": "none"}, "Options.limit must be a whole number or None, got 'none' (str)"),
        ({"widths": [1, 2]}, "Options.widths must be tuple[int, ...], got [1, 2] (list)"),
        ({"widths": (1, 2.5)}, "got (1, 2.5) (tuple), where item 1 is 2.5"),
        ({"pair": (1.0,)}, "Options.pair must be tuple[float, float], got (1.0,) (tuple)"),
        ({"pair": (1.0, True)}, "Options.pair must be tuple[float, float], got (1.0, True) (tuple)"),
        ({"extra": 3}, "Options.extra must be Mapping[str, float], got 3 (int)"),
        ({"extra": {"a": "b"}}, "Options.extra must be Mapping[str, float], got {'a': 'b'} (dict)"),
        ({"steps": 0}, "steps must be above 0, got 0"),
    ],
)
def test_fields_of_another_type_are_refused(given: dict[str, Any], message: str) -> None:
    for make in (Options, lambda **fields: replace(Options(), **fields)):
        with pytest.raises(ConfigError) as caught:
            make(**given)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((None, X), {}, "train: model must be a Module, got None"),
        ((nn.Identity, X), {}, "train: model must be a Module, got the class Identity: write Identity()"),
        ((MODEL, [0.5]), {}, "train: images must be a Tensor, got [0.5] (list)"),
        ((MODEL, X, 1, "2"), {}, "train: rest must be a whole number, got '2' (str)"),
        ((MODEL, X), {"keys": "abc"}, "keys must be Sequence[str] or None, got 'abc' (str)"),
        ((MODEL, X), {"keys": ["a"] * 500 + [3]}, "(list), where item 500 is 3"),
        ((MODEL, X), {"folder": 3}, "folder must be a Path or a text or None, got 3 (int)"),
        (
            (MODEL, X),
            {"options": Options},
            "options must be an Options or a text, got the class Options: write Options()",
        ),
        ((MODEL, X), {"call": 3}, "call must be a function or None, got 3 (int)"),
        ((MODEL, X), {"device": 0}, "device must be a device or a text or None, got 0 (int)"),
        ((MODEL, X), {"worker": Bee}, "worker must be a Worker or None, got the class Bee: write Bee()"),
        ((MODEL, X), {"worker": 3}, "worker must be a Worker or None, got 3 (int)"),
        ((MODEL, X), {"stream": 3}, "stream must be Iterable[int], got 3 (int)"),
        ((MODEL, X), {"weights": np.zeros(3)}, "array([0., 0., 0.]) (ndarray)"),
        ((MODEL, X), {"array": X}, "array must be a ndarray or None, got Tensor of torch.float32 (2, 3)"),
        ((MODEL, X), {"lr": "x"}, "train: lr must be a number, got 'x' (str)"),
    ],
)
def test_arguments_of_another_type_are_refused(arguments: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    for _ in range(3):  # the same answer every time, however long the list
        with pytest.raises(ModelError) as caught:
            train(*arguments, **named)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_fits_passes_unchanged() -> None:
    numbers = iter([1, 2])
    given: dict[str, Any] = {
        "keys": ("a", "b"),
        "folder": Path("x"),
        "options": Options(),
        "call": len,
        "device": torch.device("cpu"),
        "worker": Bee(),
        "bare": Bee(),
        "number": "a name for type checkers only",
        "stream": numbers,
        "weights": torch.zeros(3, 2),
        "array": np.zeros(2),
        "anything": object,
        "untyped": 3,
    }
    assert train(MODEL, X, 1, np.int64(2), **given, lr=np.float32(0.5), decay=1) == {"n": 2, "lr": 0.5, "decay": 1}
    assert next(numbers) == 1
    assert Options(extra=MappingProxyType({"a": 1})).extra == {"a": 1}
    assert isinstance(Options(rate=2).rate, int)


def test_a_call_that_python_refuses_is_refused_by_python() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'images'"):
        train(MODEL)  # type: ignore[call-arg]


class House:
    @classmethod
    @checked
    def create(cls, rooms: int) -> House:
        return cls()

    @checked
    def let(self, other: House, *, at: float) -> House:
        return other

    @staticmethod
    @checked
    def plain(x: int) -> int:
        return x


def test_methods_are_named_with_their_class() -> None:
    for call, message in (
        (lambda: House.create("3"), r"House\.create: rooms must be a whole number, got '3'"),
        (lambda: House().let(3, at=1.0), r"House\.let: other must be a House, got 3"),
        (lambda: House().let(House, at=1.0), r"got the class House: write House\(\)"),
        (lambda: House.plain(None), r"House\.plain: x must be a whole number, got None"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    house = House.create(rooms=3)
    assert house.let(house, at=2) is house


def test_what_is_decorated_keeps_its_name_signature_and_pickles() -> None:
    assert (train.__name__, train.__doc__) == ("train", "Doc.")
    assert list(inspect.signature(Options).parameters)[:2] == ["steps", "rate"]
    assert inspect.signature(train).parameters["model"].annotation == "nn.Module"
    options = Options(steps=7)
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options
    assert repr(options).startswith("Options(steps=7, rate=1.0")


def test_require_checks_one_value() -> None:
    require(3, int, "k")
    with pytest.raises(ModelError, match=r"^k must be a whole number, got 'x'"):
        require("x", int, "k", ModelError)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_a_whole_number_is_an_integer_of_64_bits_and_nothing_else(value: object) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        assert House.plain(value) == value
        return
    with pytest.raises(ConfigError) as caught:
        House.plain(value)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_types_in_words() -> None:
    assert words(Literal["a"]) == "'a'"
    assert words(dict[str, int | None]) == "dict[str, int | None]"
    assert words(Tensor | None) == "a Tensor or None"


def test_the_library_is_imported_at_the_first_call_only() -> None:
    code = "import sys, xaibench.validation as v\nv.checked(lambda x: x)\nassert 'beartype' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@checked
def mean(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    return float(np.average(np.asarray(values), weights=None if weights is None else np.asarray(weights)))


@pytest.mark.parametrize("values", [[1, 2.0], (True, 2), np.arange(3), torch.ones(2), pd.Series([1.5]), [[1, 2]], 3])
def test_what_is_like_an_array_holds_numbers(values: Any) -> None:
    assert mean(values) == np.asarray(values, dtype=float).mean()
    assert mean(values, np.asarray(values)) >= 1


@pytest.mark.parametrize("values", ["x", ["x"], [[1, 2], [3]], [None], np.array(["2"]), torch.ones(2).requires_grad_()])
def test_other_arrays_are_refused_by_name(values: Any) -> None:
    with pytest.raises(ConfigError, match="mean: values must be numbers, got "):
        mean(values)
    with pytest.raises(ConfigError, match="mean: weights must be numbers or None, got "):
        mean([1, 2], values)

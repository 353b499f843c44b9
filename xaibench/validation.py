"""Types at the public edge: what a function or dataclass is given must be what its annotations say.

The work is beartype's, which is imported at the first call. Its rules are kept with five differences: numbers of NumPy
count as numbers, True is no number, every item of a sequence is looked at, a text is no sequence of texts, and what is
like an array (`numpy.typing.ArrayLike`) must hold numbers.
"""

from __future__ import annotations

import builtins
import collections.abc as abc
import functools
import inspect
import itertools
import numbers
import reprlib
import types
import typing
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, overload

import numpy as np
import numpy.typing as npt

from xaibench.errors import ConfigError, XaibenchError

__all__ = ["MOST_SEED", "alternatives", "check_seed", "checked", "require", "words"]

MOST_SEED = 2**31 - 1

F = TypeVar("F", bound=Callable[..., Any])


class _Numbers:
    """Stands for `numpy.typing.ArrayLike`."""


_CONTAINERS = (tuple, list, set, frozenset, abc.Sequence, abc.Set, abc.Collection)
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
_WORDS |= {types.NoneType: "None", _Numbers: "numbers"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


@overload
def checked(target: F, /) -> F: ...
@overload
def checked(*, error: type[XaibenchError]) -> Callable[[F], F]: ...
def checked(target: Any = None, /, *, error: type[XaibenchError] = ConfigError) -> Any:
    """Decorate a function, method or dataclass: arguments of another type than annotated raise `error`, in one line.

    Stands below `classmethod` and `staticmethod` and above `dataclass`. Defaults are not checked, nor are parameters
    without an annotation; a name that is imported for type checkers only stands for anything. Whole numbers must fit
    into 64 bits. Iterators are not consumed.

    >>> @checked
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double("3")
    Traceback (most recent call last):
    xaibench.errors.ConfigError: double: x must be a whole number, got '3' (str)
    """
    if target is None:
        return functools.partial(_decorate, error=error)
    return _decorate(target, error)


def _decorate(target: Any, error: type[XaibenchError]) -> Any:
    if not isinstance(target, type):
        return _guarded(target, f"{target.__qualname__}: ", error)
    target.__init__ = _guarded(target.__init__, f"{target.__qualname__}.", error)  # type: ignore[misc]
    return target


def _guarded(function: Callable[..., Any], place: str, error: type[XaibenchError]) -> Callable[..., Any]:
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    others = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")
    tests: dict[str, tuple[Callable[[Any], bool], Any]] = {}

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not tests:
            tests.update({name: (_test(hint), hint) for name, hint in _hints(function).items()} or {"": _ANYTHING})
        names = itertools.chain(positional, itertools.cycle(several))
        for name, value in itertools.chain(zip(names, args), kwargs.items()):
            test, hint = tests.get(name) or tests.get(others, _ANYTHING)
            if not test(value):
                raise error(f"{place}{name} must be {words(hint)}, got {_shown(value, hint)}")
        return function(*args, **kwargs)

    return guarded


def require(value: object, hint: Any, what: str, error: type[XaibenchError] = ConfigError) -> None:
    """Raise `error` ("WHAT must be ..., got ...") for a value that is not of the type `hint`."""
    if not _test(hint)(value):
        raise error(f"{what} must be {words(hint)}, got {_shown(value, hint)}")


def check_seed(seed: int) -> int:
    """The seed itself; ConfigError for one outside 0..2^31 - 1."""
    if not 0 <= seed <= MOST_SEED:
        raise ConfigError(f"a seed must be between 0 and {MOST_SEED}, got {seed}")
    return seed


def words(hint: Any) -> str:
    """A type in words.

    >>> words(int | None), words(tuple[float, ...])
    ('a whole number or None', 'tuple[float, ...]')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is npt.ArrayLike:
        return _WORDS[_Numbers]
    if origin in (Union, types.UnionType):
        return " or ".join(map(words, alternatives(hint)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}" if len(arguments) > 1 else repr(arguments[0])
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is abc.Callable or hint is abc.Callable:
        return "a function"
    if isinstance(hint, type) and origin is None:
        return f"{'an' if hint.__name__[0] in 'AEIOUaeiou' else 'a'} {hint.__name__}"
    return _code(hint)


def _code(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(map(_code, arguments))
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join('...' if a is Ellipsis else _code(a) for a in arguments)}]"
    return "None" if hint is types.NoneType else getattr(hint, "__name__", str(hint))


def _shown(value: Any, hint: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}: write {value.__name__}()"
    kind = type(value).__name__
    if getattr(value, "ndim", 0) > 1:  # an array or tensor: its values say little
        return f"{kind} of {value.dtype} {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 63:
        kind = "more than 64 bits"
    shown = _short(value) if value is None or isinstance(value, bool) else f"{_short(value)} ({kind})"
    if isinstance(value, (list, tuple)):
        items = [item for item in map(_item_hint, alternatives(hint)) if item is not None]
        wrong = next((i for i, v in enumerate(value) if items and not any(_test(item)(v) for item in items)), None)
        if wrong is not None:
            shown += f", where item {wrong} is {_short(value[wrong])}"
    return shown


def _short(value: object) -> str:
    return f"{' '.join(_SHORT.repr(value).split()):.80}"


def _item_hint(option: Any) -> Any:
    """The type of the items of a sequence or set; None where it has several or none."""
    arguments = [a for a in typing.get_args(option) if a is not Ellipsis]
    return arguments[0] if typing.get_origin(option) in _CONTAINERS and len(arguments) == 1 else None


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none, alone."""
    like_arrays = typing.get_args(npt.ArrayLike) or (npt.ArrayLike,)  # from Python 3.12 on it is a name, no union
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    if not set(like_arrays) <= set(options):
        return options
    return (_Numbers, *(option for option in options if option not in like_arrays))


@functools.cache
def _test(hint: Any) -> Callable[[Any], bool]:
    """value -> is it of that type?"""
    first, *others = map(_test_one, alternatives(hint))
    return (lambda value: first(value) or any(test(value) for test in others)) if others else first


def _test_one(hint: Any) -> Callable[[Any], bool]:
    if hint in _OWN:
        return _OWN[hint]
    if type(hint) is type:
        return lambda value: isinstance(value, hint)
    item = _item_hint(hint)
    test: Callable[[Any], bool] = _beartype(hint)
    if typing.get_origin(hint) is tuple and Ellipsis in typing.get_args(hint):
        test = _beartype(tuple)  # of a typed one, beartype tests an item at random
    if getattr(hint, "_is_protocol", False):  # a class has the members too, unbound
        return lambda value: not isinstance(value, type) and test(value)
    if item is None:
        return test
    test_item = _test(item)
    return lambda value: test(value) and not isinstance(value, str) and all(map(test_item, value))


def _beartype(hint: Any) -> Callable[[Any], bool]:
    """What beartype says; True for a type that it cannot test, such as a bare Protocol."""
    from beartype import BeartypeConf, FrozenDict, beartype
    from beartype.roar import BeartypeDecorHintException
    from beartype.vale import Is

    def accept(value: object) -> bool:
        return True

    accept.__annotations__ = {"value": hint}
    whole, number = Annotated[numbers.Integral, Is[_is_whole]], Annotated[numbers.Real, Is[_is_number]]
    overrides: Any = FrozenDict({int: whole, float: number})
    try:
        accepts = beartype(conf=BeartypeConf(hint_overrides=overrides, violation_param_type=_WrongType))(accept)
    except BeartypeDecorHintException:
        return lambda value: True

    def test(value: object) -> bool:
        try:
            return accepts(value)
        except _WrongType:
            return False

    return test


class _WrongType(Exception):
    """What beartype raises inside."""


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _are_numbers(value: object) -> bool:
    try:
        return np.asarray(value).dtype.kind in "biuf"
    except (TypeError, ValueError, RuntimeError):  # ragged; a tensor of another device, or that tracks gradients
        return False


_OWN: dict[Any, Callable[[Any], bool]] = {int: _is_whole, float: _is_number, Any: lambda value: True}
_OWN |= {_Numbers: _are_numbers}
_ANYTHING = (_OWN[Any], Any)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> type; names that cannot be resolved stand for anything."""
    plain = inspect.unwrap(function)
    names = defaultdict(lambda: Any, vars(builtins) | plain.__globals__)
    found: dict[str, Any] = {}
    for name, hint in plain.__annotations__.items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, {}, names)
            except (AttributeError, TypeError):  # a member of a name that stands for anything
                hint = Any
        found[name] = types.NoneType if hint is None else hint
    return found

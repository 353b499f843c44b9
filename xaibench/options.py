"""Options as text: `name:key=value,key=value` <-> a frozen dataclass from a visible table."""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeVar, Union

from xaibench.errors import ConfigError, unknown_name

__all__ = ["check_types", "format_options", "parse_options"]

T = TypeVar("T")

_BOOLEANS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def parse_options(
    text: str, table: Mapping[str, type[T]], kind: str, given: Mapping[str, Any] = MappingProxyType({})
) -> T:
    """Build the dataclass that `table` holds under the name in `text`, with the options in `text`.

    text   "name" or "name:key=value,key=value"; spaces around the parts do not count. Values are converted to
           the field's annotated type: int, float, bool (true/false), str, a Literal, `X | None` (none), and
           tuples of these written "a+b+c".
    table  name -> dataclass
    kind   what the names are, for messages ("explainer", "method")
    given  fields that are set already and cannot stand in the text

    Raises UnknownNameError for an unknown name or key (with the nearest valid one) and ConfigError for a
    value of the wrong type, a missing "=", a missing option or a key given twice; what the dataclass itself
    refuses passes through.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name not in table:
        raise unknown_name(kind, name, table)
    cls = table[name]
    hints = {key: hint for key, hint in _field_types(cls).items() if key not in given}
    values: dict[str, Any] = dict(given)
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise ConfigError(f"{kind} '{text}': '{part.strip()}' is not of the form key=value, as in {name}:key=value")
        if key not in hints:
            if not hints:
                raise ConfigError(f"{kind} '{name}' takes no options, got '{key}': write just '{name}'")
            raise unknown_name(f"option of {kind} '{name}'", key, hints)
        if key in values:
            raise ConfigError(f"{kind} '{text}': option '{key}' is given twice: keep one")
        values[key] = _convert(value, hints[key], f"option '{key}' of {kind} '{name}'")
    required = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [key for key in required if key not in values]
    if missing:
        raise ConfigError(f"{kind} '{text}' lacks the option '{missing[0]}': write {name}:{missing[0]}=VALUE")
    return cls(**values)


def format_options(value: Any, *, full: bool = False, without: tuple[str, ...] = ()) -> str:
    """The text that `parse_options` turns back into `value`; its class has a class variable `name`.

    full=False leaves out options at their default; full=True states all, which keeps its
    meaning when defaults change. `without` leaves out fields that the text does not hold.
    Raises ConfigError for a value that the text form cannot hold (a string with a comma, say).
    """
    parts = []
    hints = _field_types(type(value))
    for field in dataclasses.fields(value):
        if not field.init or field.name in without:
            continue
        have = getattr(value, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if not full and have == default:
            continue
        text = _text(have)
        try:
            faithful = "," not in text and _convert(text.strip(), hints[field.name], field.name) == have
        except ConfigError:
            faithful = False
        if not faithful:
            raise ConfigError(f"{type(value).__name__}.{field.name}={have!r} cannot be written as text: choose another")
        parts.append(f"{field.name}={text}")
    return f"{value.name}:{','.join(parts)}" if parts else str(value.name)


def check_types(value: Any) -> None:
    """Raise ConfigError where a field of a dataclass holds something else than its annotation says.

    For the `__post_init__` of options that are also written in Python, before their ranges are checked. Fields may have
    the types that `parse_options` knows; whole numbers must fit into 64 bits, and stand for numbers too.
    """
    for name, wanted in _field_types(type(value)).items():
        have = getattr(value, name)
        if not _fits(have, wanted):
            shown = str(wanted)
            noun = {int: "a whole number of 64 bits", float: "a number", bool: "True or False", str: "a text"}
            raise ConfigError(f"{type(value).__name__}.{name} must be {noun.get(wanted, shown)}, got {have!r:.60}")


def _fits(have: Any, wanted: Any) -> bool:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(have, option) for option in arguments)
    if origin is Literal:
        return have in arguments
    if origin is tuple:
        each = arguments[:1] * len(have) if arguments[-1] is Ellipsis and isinstance(have, tuple) else arguments
        return isinstance(have, tuple) and len(have) == len(each) and all(map(_fits, have, each))
    if wanted is int:
        return isinstance(have, numbers.Integral) and not isinstance(have, bool) and -(2**63) <= int(have) < 2**63
    if wanted is float:
        return isinstance(have, numbers.Real) and not isinstance(have, bool)
    return isinstance(have, wanted)


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    return repr(value).replace("e+", "e") if isinstance(value, float) else str(value)  # "+" joins tuples


def _convert(text: str, wanted: Any, what: str) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        errors = []
        for option in arguments:
            if option is type(None):
                continue
            try:
                return _convert(text, option, what)
            except ConfigError as error:
                errors.append(error)
        raise errors[-1]
    if origin is Literal:
        for option in arguments:
            if _text(option) == text:
                return option
        raise unknown_name(f"value of {what}:", text, [_text(option) for option in arguments])
    if origin is tuple:
        pieces = text.split("+") if text else []
        each = [arguments[0]] * len(pieces) if arguments[-1] is Ellipsis else list(arguments)
        if len(each) != len(pieces):
            raise ConfigError(f"{what} must be {len(each)} values joined by '+', got '{text}'")
        return tuple(_convert(piece.strip(), kind, what) for piece, kind in zip(pieces, each))
    if wanted is bool:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(f"{what} must be true or false, got '{text}'")
        return _BOOLEANS[text.lower()]
    if wanted in (int, float):
        try:
            return wanted(text)
        except ValueError as error:
            noun = "a whole number" if wanted is int else "a number"
            raise ConfigError(f"{what} must be {noun}, got '{text}'") from error
    if wanted is str:
        return text
    raise ConfigError(f"{what} cannot be given as text: set it in Python")

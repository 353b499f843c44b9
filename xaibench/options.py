"""Options as text: `name:key=value,key=value` <-> a frozen dataclass from a visible table."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from xaibench.errors import ConfigError, unknown_name
from xaibench.validation import alternatives, check_seed, require, words

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["check_types", "format_options", "parse_options", "plain_numbers"]

_MOST = 1e9  # of any number among the options

T = TypeVar("T")


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
    require(text, str, kind)
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
            read = _convert(text.strip(), hints[field.name], field.name)
        except ConfigError:
            read = dataclasses.MISSING
        if "," in text or read != have:
            raise ConfigError(f"{type(value).__name__}.{field.name}={have!r} cannot be written as text: choose another")
        parts.append(f"{field.name}={_text(read)}")  # as it will be read
    return f"{value.name}:{','.join(parts)}" if parts else str(value.name)


def check_types(value: Any) -> None:
    """Raise ConfigError where a field of a dataclass holds something else than its annotation says.

    Numbers must be at most 1e9, and a field `seed` a seed, too.
    """
    for name, hint in _field_types(type(value)).items():
        given, what = getattr(value, name), f"{type(value).__name__}.{name}"
        require(given, hint, what)
        if name == "seed":
            check_seed(given)
        if isinstance(given, (int, float)) and _MOST < abs(given) < float("inf"):
            raise ConfigError(f"{what} must be a number of at most {_MOST:g}, got {given}")


def plain_numbers(value: Any) -> None:
    """Make the whole numbers of a frozen dataclass int, and its numbers float, as its fields are annotated.

    KD(temperature=2) and KD(temperature=2.0), which are equal, then have one repr, too.
    """
    for name, hint in _field_types(type(value)).items():
        if hint in (int, float):
            object.__setattr__(value, name, hint(getattr(value, name)) + hint(0))  # -0.0 + 0.0 is 0.0


def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    if isinstance(value, float):
        return repr(float(value)).replace("e+", "e").removesuffix(".0")  # "+" joins tuples
    return str(value)


def _convert(text: str, hint: Any, what: str) -> Any:
    """The value of type `hint` that a text stands for: "none" is None, "a+b" a tuple; the rest is pydantic's."""
    options = alternatives(hint)
    if isinstance(hint, type) and hint not in (int, float, bool, str):
        raise ConfigError(f"{what} cannot be given as text: set it in Python")
    plain: Any = text
    if types.NoneType in options and text.lower() == "none":
        plain = None
    elif any(typing.get_origin(option) is tuple for option in options):
        plain = [piece.strip() for piece in text.split("+")] if text else []
    try:
        return _adapter(hint).validate_python(plain)
    except ValueError as error:
        if typing.get_origin(hint) is Literal:
            raise unknown_name(f"value of {what}:", text, map(_text, typing.get_args(hint))) from None
        wanted = words(hint).lower() + (", written a+b" if isinstance(plain, list) else "")
        raise ConfigError(f"{what} must be {wanted}, got '{text}'") from error


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)

"""Sections of a configuration: frozen dataclasses that pydantic checks, and what it finds wrong, each in one line."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import reprlib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass

from xaibench.errors import ConfigError, XaibenchError, unknown_name
from xaibench.validation import alternatives, words

__all__ = ["Items", "Seed", "anchored", "build", "distinct", "location", "one_of", "problems", "settings"]

T = TypeVar("T")
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Items = Field(strict=False, min_length=1)  # of a tuple: a list is one too, an empty one is none


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are checked when it is made; ConfigError for the first that is wrong."""
    made: Any = dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            checked(self, *args, **kwargs)
        except ValidationError as error:
            raise _problems(error, made)[0] from None

    made.__init__ = init
    return typing.cast(type[T], made)


def build(cls: type[T], raw: dict[str, Any], folder: Path | str = ".") -> T:
    """Nested dicts (from TOML or a manifest) -> `cls`; relative paths lie in `folder`.

    Raises the first of `problems`, with the number of the others.
    """
    found = problems(cls, raw, folder)
    if found:
        more = f" (and {len(found) - 1} more: see xaibench check)" if len(found) > 1 else ""
        raise type(found[0])(f"{found[0]}{more}")
    return _read(cls, raw, folder)


def problems(cls: type, raw: dict[str, Any], folder: Path | str = ".") -> list[XaibenchError]:
    """Everything that is wrong with nested dicts that shall become a `cls`; none if they can."""
    try:
        _read(cls, raw, folder)
    except ValidationError as error:
        return _problems(error, cls)
    return []


def _read(cls: type[T], raw: dict[str, Any], folder: Path | str) -> T:
    # as JSON, so that a list is a tuple, while a number in quotes is no number
    text = json.dumps(raw, default=str)
    made: T = _adapter(typing.cast(Any, cls)).validate_json(text, strict=True, context={"folder": Path(folder)})
    return made


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _problems(error: ValidationError, cls: type) -> list[XaibenchError]:
    found: dict[str, XaibenchError] = {}
    for one in error.errors(include_url=False):
        if one["type"] == "too_short" and one["input"]:
            continue  # the items are wrong
        for problem in _expanded(one, cls):
            place = _place(one["loc"], cls)[0] if "error" not in one.get("ctx", {}) else str(problem)
            found.setdefault(place, problem)  # of a union, one line for all its types
    return list(found.values())


def _expanded(one: Any, cls: type) -> list[XaibenchError]:
    """One line, or, for a section that refused its fields together, one for each field that it refuses alone."""
    section: Any = typing.get_type_hints(cls).get(one["loc"][0]) if len(one["loc"]) == 1 else None
    if (
        isinstance(section, type)
        and dataclasses.is_dataclass(section)
        and isinstance(one["input"], dict)
        and "error" in one.get("ctx", {})
    ):
        lines: list[XaibenchError] = []
        for key, value in one["input"].items():
            try:
                section(**{key: value})
            except XaibenchError as error:
                lines.append(type(error)(f"{one['loc'][0]}: {error}"))
        if lines:
            return lines
    return [_line(one, cls)]


def _line(one: Any, cls: type) -> XaibenchError:
    place, hint, owner = _place(one["loc"], cls)
    cause, given = one.get("ctx", {}).get("error"), " ".join(reprlib.repr(one["input"]).split())
    if isinstance(cause, XaibenchError):
        return type(cause)(f"{place}: {cause}" if place and place not in str(cause) else str(cause))
    if one["type"] == "unexpected_keyword_argument":
        section, _, key = place.rpartition(".")
        names = [field.name for field in dataclasses.fields(owner)]
        return unknown_name(f"key in [{section}]" if section else "key", key, names)
    if dataclasses.is_dataclass(hint):
        return ConfigError(f"{place} must be a table, got {given}")
    if one["type"] == "literal_error" and typing.get_origin(hint) is Literal:
        return unknown_name(place, one["input"], map(str, typing.get_args(hint)))
    if one["type"].endswith("_type") or one["type"] == "literal_error":
        return ConfigError(f"{place} must be {_words(hint)}, got {given}")
    message = one["msg"].replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    message = message.replace("greater than", "above").replace("less than", "below").partition(" after ")[0]
    return ConfigError(f"{place} {re.sub('^.*? should ', 'must ', message)}, got {given}")


def _place(loc: tuple[int | str, ...], cls: type) -> tuple[str, Any, Any]:
    """Name, type and dataclass of what pydantic's location says: ("train", "lr") -> "train.lr"."""
    place, hint, owner = "", cls, cls
    for part in loc:
        if isinstance(part, int):
            options = [o for o in alternatives(hint) if typing.get_origin(o) is tuple]
            place, hint = f"{place}[{part}]", typing.get_args(options[0])[0] if options else Any
        elif dataclasses.is_dataclass(hint):
            owner, hint = hint, typing.get_type_hints(hint).get(part, Any)
            place = f"{place}.{part}" if place else part
    return place, hint, owner


def _words(hint: Any) -> str:
    def one(option: Any) -> str:
        if typing.get_origin(option) is tuple:
            return f"a list of {_PLURAL.get(typing.get_args(option)[0], 'values')}"
        return words(option)

    return " or ".join(one(option) for option in alternatives(hint) if option is not types.NoneType)


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values; ConfigError if two are equal."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ConfigError(f"{value!r} is named twice: keep each once")
    return values


def one_of(kind: str, known: typing.Iterable[str]) -> AfterValidator:
    """A validator of names: UnknownNameError, with the nearest one, for a name that is not in `known`."""

    def check(name: str) -> str:
        if name not in known:
            raise unknown_name(kind, name, known)
        return name

    return AfterValidator(check)


def location(info: ValidationInfo) -> Path:
    """The folder in which the relative paths of the configuration lie."""
    return Path((info.context or {}).get("folder", "."))


def anchored(path: str, info: ValidationInfo) -> str:
    """A path made absolute."""
    return str((location(info) / Path(path).expanduser()).absolute())

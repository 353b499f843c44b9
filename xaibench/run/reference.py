"""Every key of a configuration, with its default and meaning: as a commented TOML file and as Markdown."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from xaibench.run.config import RunConfig

__all__ = ["configuration_markdown", "configuration_toml"]

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a configuration: its section ("" at the top), name, default and meaning."""

    section: str
    name: str
    default: Any
    meaning: str

    @property
    def toml(self) -> str:
        """The default as TOML; a key that is not given by default has none."""
        return "" if self.default is None else json.dumps(self.default, ensure_ascii=False)


def configuration_toml() -> str:
    """A configuration of defaults whose comments say what each key means; a key without a default is commented out."""
    lines = ["# A configuration of xaibench: `xaibench check FILE` tries it, `xaibench run FILE` runs it."]
    for section, meaning, keys in _sections():
        lines += ["", *_comment(meaning)] + ([f"[{section}]"] if section else [])
        for key in keys:
            lines += _comment(key.meaning)
            lines.append(f"{key.name} = {key.toml}" if key.toml else f"# {key.name} = ...")
    return "\n".join(lines) + "\n"


def configuration_markdown() -> str:
    """The same as tables in Markdown, for docs/configuration.md."""
    parts = [_PREFACE]
    for section, meaning, keys in _sections():
        parts.append(f"## {f'[{section}]' if section else 'At the top'}\n\n{meaning}\n")
        rows = [f"| `{key.name}` | {f'`{key.toml}`' if key.toml else 'not given'} | {key.meaning} |" for key in keys]
        parts.append("\n".join(["| Key | Default | Meaning |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


_PREFACE = """# Configuration

A run is described by a TOML file. Every key has a default, so a file says only what differs: `xaibench init my.toml`
writes one with all keys, `xaibench check my.toml` names everything that is wrong with it at once, and
`xaibench run my.toml --set train.epochs=5` overrides a key. Relative paths in a file are relative to the file's folder,
those on the command line and in Python to the working directory; a run stores them absolute.

The file of a study has `about`, `claim`, `control`, `[vary]` and `[small]` beside these keys: [Compare methods over
subtasks and seeds](howto/studies.md).
"""


def _sections() -> Iterator[tuple[str, str, list[Key]]]:
    hints = typing.get_type_hints(RunConfig)
    inner: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    yield "", _meaning(RunConfig), [key for key in _keys("", RunConfig) if key.name not in inner]
    for name, cls in inner.items():
        yield name, _meaning(cls), _keys(name, cls)


def _keys(section: str, cls: Any) -> list[Key]:
    made, documented = cls(), _documented(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    return [Key(section, name, getattr(made, name), documented.get(name, "")) for name in names]


def _meaning(cls: type) -> str:
    return " ".join(str(cls.__doc__).split())


@functools.cache
def _documented(cls: type) -> dict[str, str]:
    """Field -> the text below it in the class body."""
    (body,) = (
        node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body if isinstance(node, ast.ClassDef)
    )
    found = {}
    for field, text in zip(body, body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2)]

"""Docstrings as Markdown: lists of "name    meaning" become definitions, doctests become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"(?P<name>[\w*]+(?:, [\w*.]+)*)(?:  +(?P<meaning>\S.*)|$)")


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> print(as_markdown("Sum.\\n\\na     the first\\nb, c  the others,\\n      added"))
    Sum.
    <BLANKLINE>
    `a`
    :   the first
    <BLANKLINE>
    `b, c`
    :   the others,
        added
    """
    return "\n\n".join(map(_block, re.split(r"\n\s*\n", text.strip())))


def _block(block: str) -> str:
    lines = block.splitlines()
    if lines[0].startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if not _is_list(lines):
        return block
    items: list[list[str]] = []
    for line in lines:
        found = _ITEM.fullmatch(line)
        if found is None:
            items[-1].append(line.strip())
        else:
            items.append([found["name"], *([found["meaning"]] if found["meaning"] else [])])
    return "\n\n".join(f"`{name}`\n:   " + "\n    ".join(meaning) for name, *meaning in items)


def _is_list(lines: list[str]) -> bool:
    """Whether each line is "name    meaning", a lone name above an indented meaning, or an indented continuation."""
    first = _ITEM.fullmatch(lines[0])
    following = [*lines[1:], ""]
    return first is not None and all(
        line.startswith("  ") or ((item := _ITEM.fullmatch(line)) and (item["meaning"] or after.startswith("  ")))
        for line, after in zip(lines, following)
    )

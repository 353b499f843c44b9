"""Docstrings as Markdown: lists of "name    meaning" become definitions, doctests become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ITEM = re.compile(r"\S.*?  +(?=\S)")  # a name and the space before its meaning; all meanings begin in one column


class Docstrings(griffe.Extension):
    """Rewrites every docstring when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> print(as_markdown("Sum.\\n\\na     the first\\nb, c  the others,\\n      added\\nSource: a book."))
    Sum.
    <BLANKLINE>
    `a`
    :   the first
    <BLANKLINE>
    `b, c`
    :   the others,
        added
    <BLANKLINE>
    Source: a book.
    """
    return "\n\n".join(map(_block, re.split(r"\n\s*\n", text.strip())))


def _block(block: str) -> str:
    lines = block.splitlines()
    if lines[0].startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    found = next(filter(None, map(_ITEM.match, lines)), None)
    if found is None:
        return block
    items: list[list[str]] = []
    column, rest = found.end(), []
    for line, after in zip(lines, [*lines[1:], ""]):
        if items and not rest and not line[:column].strip():
            items[-1].append(line.strip())
        elif not rest and line[column - 1 : column] == " " and not line[:column].strip().endswith(","):
            items.append([line[:column].strip(), line[column:]])
        elif not rest and after and not after[:column].strip():  # names alone, their meaning below
            items.append([line])
        else:
            rest.append(line)
    definitions = [f"`{name}`\n:   " + "\n    ".join(meaning) for name, *meaning in items]
    return "\n\n".join([*definitions, *(["\n".join(rest)] if rest else [])])

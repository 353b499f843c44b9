"""What may change in a run whose students are kept, and what tells two configurations apart."""

from __future__ import annotations

from typing import Any

from xaibench.run.config import RunConfig

__all__ = ["EXTENSIBLE", "first_difference"]

EXTENSIBLE = ("methods", "seeds", "explain", "similarity")
"""Keys in which a run may change and keep its students."""


def first_difference(held: RunConfig, wanted: RunConfig, *, extend: bool = False) -> str:
    """What tells two configurations apart; "" where they are the same, or `extend` allows all of it."""
    old, new = held.to_dict(), wanted.to_dict()
    if extend:
        old |= {key: new[key] for key in EXTENSIBLE}
    return _first_difference(old, new)


def _first_difference(old: dict[str, Any], new: dict[str, Any], where: str = "") -> str:
    for key in new:
        a, b = _plain(old.get(key)), _plain(new[key])
        if isinstance(a, dict) and isinstance(b, dict):
            inner = _first_difference(a, b, f"{where}{key}.")
            if inner:
                return inner
        elif a != b:
            return f"{where}{key} was {a!r}, now {b!r}"
    return ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

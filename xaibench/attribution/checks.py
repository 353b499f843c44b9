"""Whether an explanation may be believed: named checks with their numbers, done before any score is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from xaibench.errors import ExplanationError

__all__ = ["Check", "Validity", "at_most", "map_checks"]


@dataclass(frozen=True)
class Check:
    """One check: `value` was measured, `bound` is the largest that passes, `note` explains."""

    name: str
    value: float
    bound: float
    passed: bool
    note: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return f"{self.name}: {self.value:.3g} (at most {self.bound:.3g}) {verdict}"


def at_most(name: str, value: float, bound: float, note: str = "") -> Check:
    """The check value <= bound; a NaN does not pass."""
    return Check(name, float(value), float(bound), bool(value <= bound), note)


@dataclass(frozen=True)
class Validity:
    """The outcome of all checks of one attribution.

    checks   in the order they were made
    flagged  indices of images whose own map did not meet its tolerance although the whole passed
    """

    checks: tuple[Check, ...]
    flagged: tuple[int, ...] = field(default=())

    @property
    def valid(self) -> bool:
        """True where at least one check was made and all passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def require(self, what: str = "this explanation") -> Validity:
        """Return self if valid; else raise ExplanationError naming every failed check with its number."""
        if self.valid:
            return self
        failed = [check for check in self.checks if not check.passed]
        reasons = "; ".join(
            f"{c.name} is {c.value:.3g}, at most {c.bound:.3g} passes" + (f" ({c.note})" if c.note else "")
            for c in failed
        )
        raise ExplanationError(f"{what} is not valid: {reasons or 'no check was made'}")

    def take(self, indices: Iterable[int]) -> Validity:
        """The same checks, with `flagged` renumbered for the images at `indices`."""
        flagged = set(self.flagged)
        return Validity(self.checks, tuple(new for new, old in enumerate(indices) if old in flagged))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: numbers that JSON lacks (inf, nan) become strings."""
        checks = [asdict(check) for check in self.checks]
        for check in checks:
            for key in ("value", "bound"):
                if not math.isfinite(check[key]):
                    check[key] = str(check[key])
        return {"valid": self.valid, "checks": checks, "flagged": list(self.flagged)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Validity:
        """The inverse of `to_dict`."""
        checks = tuple(
            Check(c["name"], float(c["value"]), float(c["bound"]), bool(c["passed"]), c["note"]) for c in raw["checks"]
        )
        return cls(checks, tuple(int(i) for i in raw["flagged"]))


def map_checks(relevance: Tensor) -> tuple[Check, ...]:
    """Count the maps (N, C, H, W) with non-finite values (none may pass) and all-zero maps (not all may be).

    A single all-zero map is legitimate (two equal logits) and its similarity is NaN, counted downstream.
    """
    n = len(relevance)
    flat = relevance.flatten(1)
    broken = int((~torch.isfinite(flat).all(dim=1)).sum())
    empty = int((flat == 0).all(dim=1).sum())
    return (
        at_most("maps with non-finite values", broken, 0, f"of {n}"),
        at_most("all-zero maps", empty, n - 1, f"of {n}"),
    )

"""Other runs of the same study: what one has computed need not be computed again."""

from __future__ import annotations

from pathlib import Path

__all__ = ["siblings"]


def siblings(folder: Path, part: str = "") -> list[Path]:
    """The folders of the other runs of the study that a run folder belongs to, or a `part` of each."""
    if not (folder.parent.parent / "study.json").is_file():
        return []
    return [other / part for other in sorted(folder.parent.iterdir()) if other.is_dir() and other != folder]

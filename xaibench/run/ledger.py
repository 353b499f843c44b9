"""The hashes of a run folder's files, so that nothing damaged, edited or out of date is taken for a result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from xaibench.errors import RunFolderError
from xaibench.files import sha256_of_file, write_json

__all__ = ["Ledger", "digest"]


def digest(*parts: Any) -> str:
    """SHA-256 (16 hex digits) of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Ledger:
    """`files.json` of a run folder: file name -> SHA-256 of its bytes and digest of what it was made from.

    folder  the run folder
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "files.json"

    @property
    def entries(self) -> dict[str, dict[str, str]]:
        """All entries; none where the file is missing. Raises RunFolderError for a damaged one."""
        if not self.path.is_file():
            return {}
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            if all(isinstance(entry["sha256"], str) for entry in entries.values()):
                return dict(entries)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        raise RunFolderError(
            f"{self.path} is damaged: delete it, then run 'xaibench explain', 'score' and 'report' on {self.folder}"
        )

    def record(self, *names: str, source: str = "") -> None:
        """Note the files as they are now.

        source  digest of what they were made from
        """
        entries = self.entries
        wanted = {name: {"sha256": sha256_of_file(self.folder / name), "source": source} for name in names}
        if any(entries.get(name) != entry for name, entry in wanted.items()):
            write_json(self.path, dict(sorted((entries | wanted).items())))

    def forget(self, *names: str) -> None:
        """Drop the entries of files that are about to be replaced together."""
        entries = self.entries
        kept = {name: entry for name, entry in entries.items() if name not in names}
        if kept != entries:
            write_json(self.path, kept)

    def require(self, name: str, step: str, source: str | None = None) -> Path:
        """The path of a file that is as it was recorded and made from `source` (None: from anything).

        Raises RunFolderError, with `step` of the command line as the remedy, for a file that is missing, changed since,
        or made from something else.
        """
        path = self.folder / name
        remedy = f"run 'xaibench {step} {self.folder}'"
        if not path.is_file():
            raise RunFolderError(f"{path} does not exist yet: {remedy}")
        entry = self.entries.get(name)
        if entry is None or entry["sha256"] != sha256_of_file(path):
            raise RunFolderError(f"{path} is not what was written (damaged, edited or incomplete): {remedy}")
        if source is not None and entry["source"] != source:
            raise RunFolderError(f"{path} is older than what it is made from: {remedy}")
        return path

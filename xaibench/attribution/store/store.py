"""Attributions, and tensors computed beside them, kept on disk: a second look makes no model call."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from xaibench.attribution.result import Attribution
from xaibench.attribution.store.sealed_files import load_sealed, save_sealed
from xaibench.errors import ConfigError, ExplanationError, XaibenchError
from xaibench.files import sweep_partials, write_atomically
from xaibench.validation import checked

__all__ = ["AttributionStore", "default_store"]

_ENTRY = re.compile(r"[0-9a-f]{40}\.safetensors")
_TENSOR = "xaibench-tensor-1"

_log = logging.getLogger(__name__)

T = TypeVar("T")


class AttributionStore:
    """A folder with one file a key (see `keys`), at most `max_bytes` in all. Under the key None nothing is kept.

    Beyond that the least recently used files go. Any number of processes may read and write at once. A damaged file is
    removed, and where nothing can be written (a full disk) nothing is kept: both are logged as warnings, never raised.

    folder     is made when something is first kept; other files in it are left alone
    max_bytes  at least 1
    lenders    gives the folders of other stores, from which what is missing here is taken
    """

    @checked
    def __init__(
        self,
        folder: Path | str,
        max_bytes: int = 2 * 2**30,
        lenders: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        if max_bytes < 1:
            raise ConfigError(f"max_bytes must be at least 1, got {max_bytes}: give the bytes that the store may hold")
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self._lenders = lenders

    def __repr__(self) -> str:
        used = f"{self.size / 2**20:.1f} of at most {self.max_bytes / 2**20:.0f} MiB"
        return f"AttributionStore({self.folder}, {len(self)} entries, {used})"

    def __len__(self) -> int:
        """How many results are kept."""
        return len(self._entries())

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(size for _, size, _ in self._entries())

    def path_of(self, key: str) -> Path:
        """The file that holds, or would hold, what is kept under `key` (see `keys.key_of`)."""
        return self.folder / f"{key}.safetensors"

    def find(self, key: str | None) -> Attribution | None:
        """The attribution that is kept under `key`, if any."""
        return self._find(key, Attribution.load)

    def keep(self, key: str | None, attribution: Attribution) -> None:
        """Keep an attribution under `key`."""
        self._keep(key, attribution.save)

    def find_tensor(self, key: str | None) -> Tensor | None:
        """The tensor that is kept under `key`, if any."""
        return self._find(key, lambda path: load_sealed(path, _TENSOR)[0]["values"])

    def keep_tensor(self, key: str | None, values: Tensor) -> None:
        """Keep a tensor, such as a model's logits, under `key`."""
        self._keep(key, lambda path: save_sealed(path, {"values": values}, {"format": _TENSOR}))

    def clear(self) -> None:
        """Remove everything that is kept."""
        for _, _, path in self._entries():
            _remove(path)

    def _find(self, key: str | None, load: Callable[[Path], T]) -> T | None:
        if key is None:
            return None
        path = self.path_of(key)
        if not path.exists():
            self._borrow(path)
        try:
            value = load(path)
        except ExplanationError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                _log.warning("%s: it is removed from the store", error)
                _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return value

    def _borrow(self, path: Path) -> None:
        for folder in self._lenders():
            with contextlib.suppress(OSError, XaibenchError):
                source = folder / path.name
                if source.is_file():
                    write_atomically(path, partial(shutil.copyfile, source))
                    return

    def _keep(self, key: str | None, save: Callable[[Path], object]) -> None:
        if key is None:
            return
        path = self.path_of(key)
        try:
            save(path)
            self._trim(path)
        except (XaibenchError, OSError) as error:
            _log.warning("a result is not kept: %s", error)

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path), least recently used first."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if _ENTRY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process may remove it at any time
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _trim(self, newest: Path) -> None:
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        largest = next((size for _, size, path in entries if path == newest), 0)
        if largest > self.max_bytes:
            _remove(newest)
            _log.warning("a result of %d bytes is not kept: the store may hold %d", largest, self.max_bytes)
            return
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            _remove(path)
            total -= size
        sweep_partials(self.folder)


def default_store() -> AttributionStore:
    """The store in the user's cache folder: $XDG_CACHE_HOME/xaibench, or ~/.cache/xaibench; at most 2 GiB."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return AttributionStore(cache / "xaibench")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()

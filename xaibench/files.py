"""Write results atomically: a reader sees the old file or the whole new one, never a half."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from xaibench.errors import RunFolderError

__all__ = ["sha256_of_file", "sweep_partials", "write_atomically", "write_json", "write_text"]

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PARTIAL = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[^.]*\.partial(\.\w+)?")
_A_DAY = 86400


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary path beside `path`, flush it to disk and rename it into place.

    A full disk or a missing folder raises RunFolderError; the old file, if any, is untouched then.
    """
    path = Path(path)
    if "\0" in str(path):
        raise RunFolderError(f"no file can be called {str(path)!r}: choose a name without a null character")
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.stem}.{_HOST}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=f".partial{path.suffix}")
        os.close(handle)
        partial = Path(name)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has a name of its own for a full disk
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"cannot write {path}: {reason}: free space or choose another folder") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path | str, value: Any) -> Path:
    """Write JSON (two-space indent, keys in the order given) atomically."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_of_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep_partials(folder: Path | str) -> list[Path]:
    """Delete the temporary files that killed processes left in `folder` and below; return their paths.

    Files of processes that are alive stay. Those of other machines, whose processes cannot be seen, go after a day.
    """
    removed = []
    for path in Path(folder).rglob(".*.partial*"):
        found = _PARTIAL.fullmatch(path.name)
        if found and _abandoned(path, found["host"], int(found["process"])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _abandoned(path: Path, host: str, process: int) -> bool:
    if host != _HOST:
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > _A_DAY
        return False
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

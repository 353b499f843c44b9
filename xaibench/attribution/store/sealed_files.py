"""Safetensors files that know their own content: damage is detected, never read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xaibench.attribution.base import reason
from xaibench.errors import ExplanationError
from xaibench.files import write_atomically
from xaibench.models.description import tensor_bytes

__all__ = ["content_hash", "load_sealed", "save_sealed"]

_SEAL = "sha256"


def content_hash(x: Tensor) -> str:
    """SHA-256 (first 16 hex digits) over type, shape and bytes of a tensor."""
    digest = hashlib.sha256()
    _update(digest, x)
    return digest.hexdigest()[:16]


def save_sealed(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write a .safetensors file atomically, with a SHA-256 over all tensors and metadata in its header.

    The same content gives the same bytes. Raises RunFolderError where it cannot be written.
    """
    tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
    metadata = metadata | {_SEAL: _seal(tensors, metadata)}
    return write_atomically(path, lambda partial: partial.write_bytes(_reproducible(save(tensors, metadata))))


def load_sealed(path: Path | str, format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file that `save_sealed` wrote with metadata["format"] == `format`.

    Raises ExplanationError for a file that is missing, damaged or something else.
    """
    path = Path(path)
    try:
        content = path.read_bytes()  # mapped into memory, a file that is cut meanwhile would kill this process
        tensors = load(content)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ExplanationError(f"no attribution at {path}: explain the model first") from error
    except (SafetensorError, OSError) as error:
        raise ExplanationError(f"cannot read {path} ({reason(error)}): explain the model again") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = dict(header.get("__metadata__", {}))
    if metadata.get("format") != format:
        raise ExplanationError(f"{path} is not an attribution of this version: explain the model again")
    if metadata.pop(_SEAL, None) != _seal(tensors, metadata):
        raise ExplanationError(f"cannot read {path} (its content is not what was written): explain the model again")
    return tensors, metadata


def _reproducible(content: bytes) -> bytes:
    """A .safetensors file with its header in a fixed order: safetensors writes metadata in that of a random hash."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _seal(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        _update(digest, value)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, x: Tensor) -> None:
    digest.update(f"{x.dtype}{tuple(x.shape)}".encode())
    digest.update(tensor_bytes(x))

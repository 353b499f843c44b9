"""State dicts in files, as training scripts write them. Nothing in a file is executed."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from xaibench.errors import CheckpointError
from xaibench.validation import checked

__all__ = ["StateFile", "read_state", "without_prefix"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "student")

_NUMPY_TYPES = ("bool", "int32", "int64", "uint8", "float16", "float32", "float64")
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [  # what training scripts keep beside the weights: accuracies as NumPy scalars, options
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(name)) for name in _NUMPY_TYPES),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


_reading = threading.Lock()  # what torch allows to be read is a setting of the process


class StateFile(NamedTuple):
    """A state dict, the model card beside it (JSON) and the key under which the file held it, or None for those."""

    state: dict[str, Tensor]
    card: str | None = None
    wrapper: str | None = None


@checked(error=CheckpointError)
def read_state(path: Path | str) -> StateFile:
    """Read a safetensors file or what `torch.save` wrote: a state dict, or a dict with one among other entries.

    Raises CheckpointError for a file that is missing, corrupt, holds no or several state dicts, or could run code.
    """
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        raise CheckpointError(f"no checkpoint at {path}: give the path of a .safetensors or state-dict file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                return StateFile(tensors, (file.metadata() or {}).get("xaibench"))
        with _reading, torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        raise _unreadable(path, str(error), type(error).__name__) from error
    return _found_in(content, path)


def _unreadable(path: Path, text: str, kind: str) -> CheckpointError:
    if "TorchScript" in text:
        return CheckpointError(
            f"checkpoint {path} is a TorchScript archive: save the weights alone, as in "
            f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')"
        )
    if "safe_globals" in text:
        return CheckpointError(
            f"checkpoint {path} holds more than tensors and is not loaded, since it could run code: save "
            "model.state_dict() with torch.save, or, if you trust the file, load it with weights_only=False and save "
            "its state dict alone"
        )
    return CheckpointError(
        f"cannot read checkpoint {path}: corrupt, truncated or no state dict ({kind}): "
        "fetch it again or save model.state_dict() with torch.save"
    )


def _found_in(content: object, path: Path) -> StateFile:
    if _is_state(content):
        return StateFile(content)  # type: ignore[arg-type]
    held = [key for key, value in content.items() if _is_state(value)] if isinstance(content, dict) else []
    usual = [key for key in _WRAPPERS if key in held]
    if not held:
        raise CheckpointError(f"checkpoint {path} is not a state dict and holds none: save model.state_dict()")
    if len(held) > 1 and not usual:
        names = ", ".join(map(repr, held[:4]))
        raise CheckpointError(f"checkpoint {path} holds {len(held)} state dicts ({names}): save the one meant")
    key = (usual or held)[0]
    return StateFile(content[key], wrapper=str(key))  # type: ignore[index]


def _is_state(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


def without_prefix(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], str]:
    """The entries of `state` that belong to a model, and the prefix ("module.", "model.") that their names had.

    own  the model's state dict. All its names follow the prefix; entries without the prefix (another model's, a
         loss's) are left out

    Raises CheckpointError where several prefixes fit, as in a file that holds teacher and student.
    """
    fitting = [prefix for prefix in _prefixes(state, own) if all(prefix + name in state for name in own)]
    if "" in fitting:
        return dict(state), ""
    if len(fitting) > 1:
        fitting = [p for p in fitting if all(state[p + name].shape == own[name].shape for name in own)] or fitting
    if len(fitting) > 1:
        raise CheckpointError(
            f"{source} holds several models that fit ({', '.join(fitting)}): save the state dict of the one meant"
        )
    prefix = fitting[0] if fitting else _common_prefix(state, own)
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}, prefix


def _prefixes(state: Collection[str], own: Mapping[str, Tensor]) -> list[str]:
    first = next(iter(own), "")
    return [name.removesuffix(first) for name in state if name == first or name.endswith(f".{first}")]


def _common_prefix(state: Collection[str], own: Collection[str]) -> str:
    """The longest prefix of whole name parts that all entries and none of the model's names have."""
    prefix = ""
    while True:
        heads = {name.removeprefix(prefix).partition(".")[0] for name in state}
        longer = f"{prefix}{next(iter(heads), '')}."
        if len(heads) != 1 or not all(name.startswith(longer) for name in state):
            return prefix
        if any(name.startswith(longer.removeprefix(prefix)) for name in own):
            return prefix
        prefix = longer

"""Load and save model weights without ever executing code from a file.

A checkpoint is a `.safetensors` file (ours; its metadata say how to rebuild the model), a state dict saved with
`torch.save` (read with `weights_only=True`), or weights that come with an installed package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xaibench.data.images import Preprocessing
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import CheckpointError, ModelError
from xaibench.files import write_atomically
from xaibench.models.architectures import build_model
from xaibench.models.description import Description, UndescribableError, tensor_bytes
from xaibench.models.imagenet import installed_state

__all__ = ["ModelCard", "load_checkpoint", "load_state", "read_state", "save_checkpoint", "state_hash"]

_INSTALLED = "installed:"


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint must say of itself for the model to be rebuilt and fed.

    architecture   a name for `build_model`
    classes        class names in logit order
    preprocessing  mean, std and input size
    notes          anything else worth keeping (accuracy, command, seed)
    """

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        raw = json.loads(text)
        pre = raw["preprocessing"]
        size = tuple(pre["size"]) if pre["size"] else None
        preprocessing = Preprocessing(tuple(pre["mean"]), tuple(pre["std"]), size)
        return cls(raw["architecture"], tuple(raw["classes"]), preprocessing, raw["notes"])


def state_hash(model: nn.Module) -> str:
    """SHA-256 (first 16 hex digits) over the names, types, shapes and bytes of all parameters and buffers.

    Buffers that are not saved count too (the classes of a `ClassSlice`): they change what the model computes. So does
    whatever else a module saves (quantised weights, `get_extra_state`).

    Raises ModelError for lazy modules that have not run yet.
    """
    digest = hashlib.sha256()
    tensors = {**model.state_dict(), **dict(model.named_buffers())}
    for name, value in sorted(tensors.items()):
        if is_lazy(value):
            raise ModelError(f"'{name}' of {type(model).__name__} has no values yet: run the model once on a batch")
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(tensor_bytes(value))
        else:
            digest.update(f"{name}{_described(value)}".encode())
    return digest.hexdigest()[:16]


def _described(value: object) -> str:
    try:
        return json.dumps(Description()(value))
    except UndescribableError:
        return type(value).__qualname__


def read_state(path: Path | str) -> tuple[dict[str, Tensor], str | None]:
    """Read (state dict, metadata JSON or None) from a safetensors file or a `torch.save`d state dict."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give the path of a .safetensors or state-dict file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                return tensors, (file.metadata() or {}).get("xaibench")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise almost anything
        if "safe_globals" in str(error):
            raise CheckpointError(
                f"checkpoint {path} holds more than tensors and is not loaded, since it could run code: "
                "save model.state_dict() with torch.save, or a .safetensors file"
            ) from error
        raise CheckpointError(
            f"cannot read checkpoint {path}: corrupt, truncated or no state dict ({type(error).__name__}): "
            "fetch it again or save model.state_dict() with torch.save"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"checkpoint {path} is not a state dict: save model.state_dict()")
    return state, None


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into `model`; a mismatch names the first differing keys and shapes. NaN weights are refused."""
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    differing = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or differing:
        parts = []
        if differing:
            k = differing[0]
            parts.append(f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model")
        if missing:
            parts.append(f"the file lacks {', '.join(missing[:3])}{' ...' * (len(missing) > 3)}")
        if extra:
            parts.append(f"the model lacks {', '.join(extra[:3])}{' ...' * (len(extra) > 3)}")
        raise CheckpointError(
            f"{source} does not fit the model ({'; '.join(parts)}): "
            "check the architecture, its widths and the number of classes"
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{source} has NaN or infinite values in {key}: the checkpoint is damaged")
    model.load_state_dict(state)


def save_checkpoint(path: Path | str, model: nn.Module, card: ModelCard, dtype: torch.dtype | None = None) -> Path:
    """Write `model` and its card as safetensors, atomically. `dtype` (torch.float16) halves the file."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if dtype is not None:
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    return write_atomically(path, lambda partial: save_file(state, partial, metadata={"xaibench": card.to_json()}))


def load_checkpoint(
    path: Path | str,
    architecture: str | None = None,
    classes: tuple[str, ...] | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[nn.Module, ModelCard]:
    """Rebuild the model of a checkpoint, in float32 and evaluation mode, with its card.

    path  a file, or "installed:NAME" for weights that come with a package (see `imagenet`)

    A file written by `save_checkpoint` and an installed model need nothing else. For a bare state dict give
    `architecture`, `classes` and `preprocessing`; where given for one of the others they must agree with its card.
    """
    state, card = _read(path)
    if card is None:
        if architecture is None or classes is None or preprocessing is None:
            raise CheckpointError(
                f"{path} does not say what model it holds: give the architecture, the class names and mean/std"
            )
        card = ModelCard(architecture, tuple(classes), preprocessing)
    if architecture is not None and architecture != card.architecture:
        raise CheckpointError(f"{path} holds {card.architecture}, not {architecture}: drop or correct the model name")
    if classes is not None and tuple(classes) != card.classes:
        raise CheckpointError(
            f"{path} was trained on {len(card.classes)} classes ({', '.join(card.classes[:4])}, ...), "
            f"not on the {len(classes)} given: drop or correct the class list"
        )
    if preprocessing is not None and preprocessing != card.preprocessing:
        raise CheckpointError(
            f"{path} was trained with mean {card.preprocessing.mean} and std {card.preprocessing.std}, not with "
            f"{preprocessing.mean} and {preprocessing.std}: drop or correct them"
        )
    model = build_model(card.architecture, len(card.classes), card.preprocessing.channels)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    load_state(model, state, str(path))
    return model.eval(), card


def _read(path: Path | str) -> tuple[dict[str, Tensor], ModelCard | None]:
    name = str(path)
    if name.startswith(_INSTALLED):
        entry, state = installed_state(name.removeprefix(_INSTALLED))
        return state, ModelCard(
            entry.architecture, CLASS_LISTS["imagenet"], entry.preprocessing, {"weights": entry.package}
        )
    state, metadata = read_state(path)
    if metadata is None:
        return state, None
    try:
        return state, ModelCard.from_json(metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has an unreadable model card ({error}): save it again") from error

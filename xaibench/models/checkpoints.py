"""Load and save model weights without ever executing code from a file.

A checkpoint is a `.safetensors` file (ours; its metadata say how to rebuild the model), a state dict saved with
`torch.save` (see `state_files`), or weights that come with xaibench or an installed package.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xaibench.data.fashion import embedded
from xaibench.data.images import Preprocessing, first_double
from xaibench.data.subtasks import CLASS_LISTS
from xaibench.errors import CheckpointError, ModelError
from xaibench.files import write_atomically
from xaibench.models.architectures import build_model
from xaibench.models.description import Description, UndescribableError, tensor_bytes
from xaibench.models.imagenet import installed_state
from xaibench.models.own_models import is_own, same_code
from xaibench.models.state_files import read_state, without_prefix
from xaibench.validation import checked

__all__ = ["ModelCard", "load_checkpoint", "load_state", "read_state", "save_checkpoint", "state_hash"]

_INSTALLED = "installed:"
_EMBEDDED = "embedded:"
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # of GoogLeNet and Inception, which `build_model` makes without


@checked(error=ModelError)
@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint must say of itself for the model to be rebuilt and fed.

    architecture   a name for `build_model`
    classes        different class names in logit order
    preprocessing  mean, std and input size
    notes          anything else worth keeping (accuracy, command, seed)

    Raises ModelError for class names that occur twice.
    """

    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (double := first_double(self.classes)) is not None:
            raise ModelError(f"two classes of {self.architecture} are named '{double}': give each its own name")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        raw = json.loads(text)
        pre = raw["preprocessing"]
        size = tuple(pre["size"]) if pre["size"] else None
        preprocessing = Preprocessing(tuple(pre["mean"]), tuple(pre["std"]), size)
        return cls(raw["architecture"], tuple(raw["classes"]), preprocessing, raw["notes"])


@checked(error=ModelError)
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


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into `model`; a mismatch names the first differing keys and shapes. NaN weights are refused.

    Of layers that share their weights, `state` may hold one only.
    """
    own = model.state_dict()
    shared = {value.data_ptr(): k for k, value in own.items() if k in state and value.numel()}
    state = state | {
        k: state[shared[v.data_ptr()]] for k, v in own.items() if k not in state and v.data_ptr() in shared
    }
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


@checked(error=ModelError)
def save_checkpoint(path: Path | str, model: nn.Module, card: ModelCard, dtype: torch.dtype | None = None) -> Path:
    """Write `model` and its card as safetensors, atomically. `dtype` (torch.float16) halves the file.

    Weights that layers share are written for each of them. Raises ModelError for a model that saves more than tensors.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ModelError(f"weights cannot be kept as {dtype}, which has no fractions: give torch.float16, say, or None")
    state = {}
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"'{key}' of {type(model).__name__} is a {type(value).__name__}, and only tensors are saved: "
                "keep it in the notes of its card"
            )
        state[key] = value.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors takes no shared memory
    if dtype is not None:
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    return write_atomically(path, lambda partial: save_file(state, partial, metadata={"xaibench": card.to_json()}))


@checked(error=ModelError)
def load_checkpoint(
    path: Path | str,
    architecture: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> tuple[nn.Module, ModelCard]:
    """Rebuild the model of a checkpoint, in float32 and evaluation mode, with its card.

    path  a file, "embedded:NAME" for one that comes with xaibench, or "installed:NAME" for weights that come with a
          package (see `imagenet`)

    A file written by `save_checkpoint` and an installed model need nothing else. For a bare state dict give
    `architecture`, `classes` and `preprocessing`; where given for one of the others they must agree with its card.

    A state dict may lie under a key of its file ("model", "state_dict") and its names may have a prefix ("module.");
    the card's notes say under "unwrapped" what was taken off. A card that names the user's own code (`file.py:Class`)
    runs it only if `architecture` names it too.

    Raises CheckpointError for files that are missing, corrupt, could run code or do not fit.
    """
    state, card, wrapper = _read(path)
    if card is None:
        if architecture is None or classes is None or preprocessing is None:
            raise CheckpointError(
                f"{path} does not say what model it holds: give the architecture, the classes and the preprocessing "
                "(mean and std)"
            )
        card = ModelCard(architecture, tuple(classes), preprocessing)
    if architecture is None and is_own(card.architecture):
        raise CheckpointError(
            f"{path} names the code '{card.architecture}', which a file cannot make run: if you trust that code, give "
            f"it as the architecture too"
        )
    if architecture is not None and not same_code(architecture, card.architecture):
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
    model = build_model(architecture or card.architecture, len(card.classes), card.preprocessing.channels)
    own = model.state_dict()
    state, prefix = without_prefix(state, own, str(path))
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in state.items()
        if k in own or not k.startswith(_AUXILIARY)
    }
    load_state(model, state, str(path))
    taken_off = ", ".join(part for part in (wrapper, prefix) if part)
    if taken_off:
        card = dataclasses.replace(card, notes={**card.notes, "unwrapped": taken_off})
    return model.eval(), card


def _read(path: Path | str) -> tuple[dict[str, Tensor], ModelCard | None, str | None]:
    name = str(path)
    if name.startswith(_INSTALLED):
        entry, state = installed_state(name.removeprefix(_INSTALLED))
        notes = {"weights": entry.package}
        return state, ModelCard(entry.architecture, CLASS_LISTS["imagenet"], entry.preprocessing, notes), None
    if name.startswith(_EMBEDDED):
        path = embedded(name.removeprefix(_EMBEDDED))
    state, metadata, wrapper = read_state(path)
    if metadata is None:
        return state, None, wrapper
    try:
        return state, ModelCard.from_json(metadata), wrapper
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has an unreadable model card ({error}): save it again") from error

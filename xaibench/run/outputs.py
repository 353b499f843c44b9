"""What the models of a run answer on the whole test set."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from xaibench.attribution.store.sealed_files import load_sealed, save_sealed
from xaibench.errors import ExplanationError, RunFolderError
from xaibench.run.folder import Run

__all__ = ["load_outputs", "save_outputs"]

_FILE, _FORMAT, _LABELS = "logits.safetensors", "xaibench-logits-1", "labels"


def save_outputs(run: Run, logits: Mapping[str, Tensor], labels: Tensor) -> None:
    """Write each model's logits of the test set (N, K), and its labels (N,)."""
    save_sealed(run.folder / _FILE, {**logits, _LABELS: labels}, {"format": _FORMAT})
    run.ledger.record(_FILE, source=run.source("explain"))


def load_outputs(run: Run) -> tuple[dict[str, Tensor], Tensor]:
    """Model ("teacher", "kd/seed0", "untrained") -> its logits of the test set (N, K), float32; and the labels (N,).

    Raises RunFolderError, with the remedy, where they are missing, damaged or out of date.
    """
    path = run.ledger.require(_FILE, "explain", run.source("explain"))
    try:
        tensors, _ = load_sealed(path, _FORMAT)
    except ExplanationError as error:
        raise RunFolderError(f"{path} cannot be read: run 'xaibench explain {run.folder}'") from error
    labels = tensors.pop(_LABELS)
    return {name: tensors[name] for name in run.models}, labels

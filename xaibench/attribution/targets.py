"""What is explained: z_y - z_r, the same question for teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.data.images import chosen_rows
from xaibench.errors import ExplanationError, unknown_name

__all__ = ["Target", "make_target"]

_RULES = ("teacher", "own")


@dataclass(frozen=True, eq=False)
class Target:
    """The explained output of image i is logit label[i] minus logit contrast[i].

    label     (N,) int64, the class y
    contrast  (N,) int64, the class r != y that it is held against
    rule      how r was chosen: "teacher" (the teacher's runner-up) or "own" (the explained model's)
    """

    label: Tensor
    contrast: Tensor
    rule: str = "teacher"

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise unknown_name("contrast", self.rule, _RULES)
        for name in ("label", "contrast"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != torch.int64:
                raise ExplanationError(f"target {name} must be an int64 tensor of shape (N,), got {_describe(value)}")
        if len(self.label) != len(self.contrast):
            raise ExplanationError(f"got {len(self.label)} labels and {len(self.contrast)} contrasts: give as many")
        same = torch.nonzero(self.label == self.contrast).flatten()
        if len(same):
            raise ExplanationError(
                f"image {int(same[0])} is contrasted with its own class {int(self.label[same[0]])}: "
                "choose another contrast class"
            )

    def __len__(self) -> int:
        return len(self.label)

    def select(self, logits: Tensor) -> Tensor:
        """z_y - z_r: logits (N, K) -> (N,)."""
        label, contrast = self.label.to(logits.device), self.contrast.to(logits.device)
        chosen = logits.gather(1, torch.stack([label, contrast], dim=1))
        return chosen[:, 0] - chosen[:, 1]

    def take(self, indices: Sequence[int] | Sequence[bool] | Tensor) -> Target:
        """The target of the images at `indices` (see `data.images.chosen_rows`), in that order."""
        index = chosen_rows(indices, len(self))
        return Target(self.label[index], self.contrast[index], self.rule)

    def same_as(self, other: Target) -> bool:
        """True where both ask the same question of the same number of images."""
        return torch.equal(self.label, other.label) and torch.equal(self.contrast, other.contrast)


def make_target(
    logits_teacher: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    contrast: str = "teacher",
    logits_own: Tensor | None = None,
) -> Target:
    """y = labels (None: the teacher's prediction), r = argmax_{j != y} of the logits that `contrast` names.

    logits_teacher  (N, K)
    labels          (N,) integers in 0..K-1
    contrast        "teacher": both models answer the same question; "own": the runner-up of `logits_own`
                    (N, K), the explained model's logits, as in arXiv 2601.05913

    Raises ExplanationError for logits that are not (N, K >= 2) and finite, labels that are no whole numbers or out of
    range.
    """
    if contrast not in _RULES:
        raise unknown_name("contrast", contrast, _RULES)
    _check_logits("the teacher's logits", logits_teacher)
    labels = _whole_numbers(logits_teacher.argmax(dim=1) if labels is None else labels)
    n, k = logits_teacher.shape
    if labels.shape != (n,):
        raise ExplanationError(f"{n} rows of logits but labels of shape {tuple(labels.shape)}: give one label a row")
    if n and (int(labels.min()) < 0 or int(labels.max()) >= k):
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ExplanationError(f"target class {wrong} is not among the model's {k} classes: use 0..{k - 1}")
    source = logits_teacher
    if contrast == "own":
        if logits_own is None:
            raise ExplanationError("contrast 'own' needs the explained model's logits: give logits_own (N, K)")
        _check_logits("the model's own logits", logits_own)
        if logits_own.shape != logits_teacher.shape:
            raise ExplanationError(
                f"own logits are {tuple(logits_own.shape)}, the teacher's {tuple(logits_teacher.shape)}"
                ": both models must answer for the same images and classes"
            )
        source = logits_own
    others = source.detach().cpu().double().scatter(1, labels[:, None], -torch.inf)
    return Target(labels, others.argmax(dim=1), contrast)


def _whole_numbers(labels: Tensor | Sequence[int]) -> Tensor:
    try:
        value = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExplanationError(f"labels must be whole numbers, got {labels!r:.60}: give class indices") from error
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ExplanationError(f"labels must be whole numbers, got {value.dtype}: give class indices, as labels.long()")
    return value.to("cpu", torch.int64)


def _check_logits(what: str, logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise ExplanationError(f"{what} must be a tensor (N, K), got {type(logits).__name__}: give torch.tensor(...)")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ExplanationError(f"{what} must have shape (N, K) with at least 2 classes, got {tuple(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ExplanationError(f"{what} contain NaN or infinite values: check the model's weights and its input")


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

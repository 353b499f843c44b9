"""How alike two models' predictions are, and how good: functions of logits or probabilities (N, K)."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from xaibench.errors import ConfigError, DataError
from xaibench.validation import checked

__all__ = [
    "accuracy",
    "activation_distance",
    "agreement",
    "calibration_error",
    "disagreement",
    "functional_comparison",
    "jensen_shannon",
    "log_loss",
    "probabilities",
    "reliability",
]

_MOST_BINS = 10_000


@checked(error=DataError)
def probabilities(logits: Tensor) -> Tensor:
    """softmax(logits) in float64, (N, K) -> (N, K): what the functions below want that speak of probabilities."""
    _matrix(logits)
    return logits.detach().double().softmax(dim=1)


@checked(error=DataError)
def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit or probability (N, K) is at the label (N,), in [0, 1]."""
    _matrix(outputs)
    _labels(outputs, labels)
    return float((outputs.argmax(dim=1) == labels).double().mean())


@checked(error=DataError)
def agreement(p: Tensor, q: Tensor) -> float:
    """mean[argmax p = argmax q] over images, in [0, 1], for logits or probabilities (N, K)."""
    _same(p, q)
    return float((p.argmax(dim=1) == q.argmax(dim=1)).double().mean())


@checked(error=DataError)
def disagreement(p: Tensor, q: Tensor) -> float:
    """Prediction disagreement 1 - mean[argmax p = argmax q], in [0, 1] (arXiv 2510.12615)."""
    return 1.0 - agreement(p, q)


@checked(error=DataError)
def activation_distance(p: Tensor, q: Tensor) -> float:
    """mean_i ||p_i - q_i||_2 between probabilities (N, K), in [0, sqrt 2] (arXiv 2510.12615)."""
    p, q = _distributions(p, q)
    return float((p - q).norm(dim=1).mean())


@checked(error=DataError)
def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """mean_i [KL(p_i||m_i) + KL(q_i||m_i)] / 2, m = (p + q) / 2, in nats, in [0, ln 2]; probabilities (N, K)."""
    p, q = _distributions(p, q)
    middle = (p + q) / 2
    # The middle is 0 only where both are, and there xlogy(0, .) is 0 whatever it is divided by.
    middle = torch.where(middle > 0, middle, torch.ones_like(middle))
    halves = torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)
    return max(0.0, float(halves.sum(dim=1).mean() / 2))


@checked(error=DataError)
def log_loss(p: Tensor, labels: Tensor) -> float:
    """Cross-entropy -mean_i log p_i[label_i], in nats; probabilities (N, K), labels (N,) of 0 .. K - 1."""
    _labels(p, labels)
    (p,) = _distributions(p)
    return float(-p.gather(1, labels.long()[:, None]).log().mean())


@checked(error=DataError)
def reliability(p: Tensor, labels: Tensor, bins: int = 15) -> pd.DataFrame:
    """How often a model is right at each confidence: a row a bin, low, high, confidence, accuracy, count.

    p (N, K) probabilities, labels (N,). Bins (low, high] of the largest probability are equally wide; confidence and
    accuracy are their means, NaN in an empty bin. Source: Guo et al. 2017, arXiv 1706.04599.
    """
    if not 1 <= bins <= _MOST_BINS:
        raise ConfigError(f"bins must be 1 to {_MOST_BINS}, got {bins}: 15 is usual")
    _labels(p, labels)
    (p,) = _distributions(p)
    confidence, predicted = p.max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    count, sure, right = (
        torch.zeros(bins, dtype=torch.float64, device=p.device).index_add_(0, place, values).cpu().numpy()
        for values in (torch.ones_like(confidence), confidence, (predicted == labels).double())
    )
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64).numpy()
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "confidence": sure, "accuracy": right})
    table[["confidence", "accuracy"]] = table[["confidence", "accuracy"]].div(count, axis=0)  # 0 / 0 is NaN
    return table.assign(count=count.astype(int))


@checked(error=DataError)
def calibration_error(p: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error sum_b (n_b / N) |accuracy_b - confidence_b|, bins of `reliability`, in [0, 1]."""
    table = reliability(p, labels, bins)
    return float(((table["accuracy"] - table["confidence"]).abs() * table["count"]).sum() / len(p))


@checked(error=DataError)
def functional_comparison(p: Tensor, q: Tensor, labels: Tensor) -> dict[str, float]:
    """All measures of arXiv 2510.12615 between a teacher and a student, as a row; probabilities (N, K), labels (N,).

    p  of the teacher
    q  of the student, of which alone accuracy, log_loss and calibration_error (15 bins) are
    """
    return {
        "disagreement": disagreement(p, q),
        "activation_distance": activation_distance(p, q),
        "jensen_shannon": jensen_shannon(p, q),
        "accuracy": accuracy(q, labels),
        "log_loss": log_loss(q, labels),
        "calibration_error": calibration_error(q, labels),
    }


def _matrix(outputs: Tensor) -> None:
    if outputs.ndim != 2 or len(outputs) == 0 or not bool(torch.isfinite(outputs).all()):
        raise DataError(f"outputs must be finite and of shape (N, K) with N > 0, got {tuple(outputs.shape)}")


def _labels(outputs: Tensor, labels: Tensor) -> None:
    if labels.shape != outputs.shape[:1]:
        raise DataError(f"{len(outputs)} outputs but labels of shape {tuple(labels.shape)}: give one label an image")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels must be whole numbers, got {labels.dtype}: give the places of the classes, 0 .. K-1")
    if bool((labels < 0).any()) or bool((labels >= outputs.shape[1]).any()):
        raise DataError(
            f"labels from {int(labels.min())} to {int(labels.max())} with {outputs.shape[1]} classes: give 0 .. K-1"
        )


def _same(p: Tensor, q: Tensor) -> None:
    _matrix(p)
    _matrix(q)
    if p.shape != q.shape:
        raise DataError(f"outputs of shapes {tuple(p.shape)} and {tuple(q.shape)}: use the same images and classes")


def _distributions(*given: Tensor) -> list[Tensor]:
    for p in given:
        _same(given[0], p)
        if bool((p < 0).any()) or bool(((p.double().sum(dim=1) - 1).abs() > 1e-3).any()):
            raise DataError("rows must be probabilities that sum to 1: apply probabilities(logits) first")
    return [p.detach().double() for p in given]

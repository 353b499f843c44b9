"""CRD: tell an image's embedding by the other model from those of other images. Source: ICLR 2020, arXiv 1910.10699."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.distillation.losses.layer import check_samples
from xaibench.errors import ConfigError

__all__ = ["ContrastiveLoss", "contrast", "draw_negatives"]

_EPSILON = 1e-7


def contrast(scores: Tensor, positive: Tensor, negatives: Tensor, n: int) -> Tensor:
    """Noise-contrastive loss of each row: scores (B, n) -> (B,), at least 0.

    -log s_+ / (s_+ + m/n) - sum over negatives of log (m/n) / (s_- + m/n), with m the row's number of negatives.

    scores     exp(<memory_j, v_i> / T) / Z, normalised
    positive   (B,) column of the row's own image
    negatives  (B, n) bool, the columns that count as other images
    """
    noise = negatives.sum(1, keepdim=True) / n
    own = scores.gather(1, positive[:, None])
    attract = torch.log(own / (own + noise + _EPSILON))[:, 0]
    repel = (torch.log(noise / (scores + noise + _EPSILON)) * negatives).sum(1)
    return -(attract + repel)


def draw_negatives(labels: Tensor, all_labels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """For each of `labels` (B,), `count` of the images of another class in `all_labels` (n,): (B, n) bool.

    All of them where there are no more than `count`. Raises ConfigError where a class has no other.
    """
    others = labels[:, None] != all_labels[None, :]
    if not others.any(1).all():
        raise ConfigError("CRD contrasts classes but all training images have one label: train on several")
    if count >= int(others.sum(1).max()):
        return others
    order = torch.rand(others.shape, generator=generator).to(labels.device).masked_fill(~others, -1.0)
    return torch.zeros_like(others).scatter_(1, order.topk(count, dim=1).indices, True) & others


class ContrastiveLoss(nn.Module):
    """`contrast` in both directions: the student's embedding against a memory of the teacher's, and the reverse.

    teacher, student  channels of the pooled features; each is embedded by a learned linear map, scaled to unit length
    labels            of all n training images: negatives are images of other classes
    negatives         at most that many for each image, drawn anew at each step; fewer where there are fewer
    Z, which makes the scores sum to about 1, is fixed in the first training step.
    """

    memory: Tensor
    z: Tensor
    labels: Tensor

    def __init__(
        self,
        teacher: int,
        student: int,
        labels: Tensor,
        *,
        dimensions: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Linear(student, dimensions), nn.Linear(teacher, dimensions)])
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        bound = (3 / dimensions) ** 0.5
        self.register_buffer("memory", torch.empty(2, len(labels), dimensions).uniform_(-bound, bound))
        self.register_buffer("z", torch.zeros(2))
        self.register_buffer("labels", labels.clone())

    def forward(
        self, student: Tensor, teacher: Tensor, indices: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Pooled features (B, k) and (B, d) of the training images at `indices` (B,) -> (B,)."""
        check_samples(student, teacher, "CRD")
        indices = indices.to(self.labels.device)
        negatives = draw_negatives(self.labels[indices], self.labels, self.negatives, generator)
        embedded = [F.normalize(layer(x), dim=1) for layer, x in zip(self.embed, (student, teacher))]
        n = len(self.labels)
        total = torch.zeros(len(indices), device=student.device)
        for side, vectors in enumerate(embedded):
            scores = torch.exp(vectors @ self.memory[1 - side].clone().T / self.temperature)
            if self.training and self.z[side] == 0:
                self.z[side] = scores.detach()[negatives].mean() * n
            total = total + contrast(scores / self.z[side].clone(), indices, negatives, n)
        if self.training:
            with torch.no_grad():
                for side, vectors in enumerate(embedded):
                    mixed = self.memory[side, indices] * self.momentum + vectors * (1 - self.momentum)
                    self.memory[side, indices] = F.normalize(mixed, dim=1)
        return total

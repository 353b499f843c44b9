"""SemCKD: every student layer learns from all teacher layers, by learned attention. AAAI 2021, arXiv 2012.03236."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.distillation.losses.layer import check_maps, squared_length
from xaibench.errors import ConfigError
from xaibench.models.maps import Shape, common_size, pool_to

__all__ = ["SemanticLoss", "semckd"]


def semckd(errors: Tensor, attention: Tensor) -> Tensor:
    """(1/S) sum_s sum_t attention_st error_st: (B, S, T) twice -> (B,); attention sums to 1 over t."""
    return (attention * errors).sum((1, 2)) / errors.shape[1]


class SemanticLoss(nn.Module):
    """`semckd` with its learned parts.

    Attention of student layer s on teacher layer t, for each sample: softmax over t of <query_s, key_t>, both embedded
    from the sample's row of the layer's B x B Gram matrix of flattened features. The error is the mean squared one
    between the teacher's map and its regression from the student's (1x1, 3x3, 1x1 convolutions, batch norm and ReLU
    between them), the larger map pooled to the smaller. A row has `batch_size` entries; a smaller last batch is filled
    up with zeros.
    """

    def __init__(self, teacher: Sequence[Shape], student: Sequence[Shape], batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        width = max(batch_size // 4, 1)
        self.queries = nn.ModuleList(_embedding(batch_size, width) for _ in student)
        self.keys = nn.ModuleList(_embedding(batch_size, width) for _ in teacher)
        self.regressors = nn.ModuleList(nn.ModuleList(_regressor(s[0], t[0]) for t in teacher) for s in student)
        self.sizes = [[common_size(t, s) for t in teacher] for s in student]

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps (B, k_s, H, W) of each student layer and (B, d_t, H, W) of each teacher layer -> (B,)."""
        errors = [
            torch.stack([self._error(s, t, hs, ht) for t, ht in enumerate(teacher)], 1) for s, hs in enumerate(student)
        ]
        with torch.autocast(student[0].device.type, enabled=False):
            query = torch.stack([F.normalize(e(self._gram(h)), dim=1) for e, h in zip(self.queries, student)], 1)
            key = torch.stack([F.normalize(e(self._gram(h)), dim=1) for e, h in zip(self.keys, teacher)], 1)
            attention = torch.einsum("bsd,btd->bst", query, key).softmax(2)
        return semckd(torch.stack(errors, 1), attention)

    def _gram(self, maps: Tensor) -> Tensor:
        if len(maps) > self.batch_size:
            raise ConfigError(
                f"SemCKD was made for batches of at most {self.batch_size} samples, got {len(maps)}: build it for more"
            )
        flat = maps.flatten(1).to(self.queries[0][0].weight.dtype)  # type: ignore[index]
        gram = flat @ flat.T
        return F.pad(gram, (0, self.batch_size - len(gram)))

    def _error(self, s: int, t: int, student: Tensor, teacher: Tensor) -> Tensor:
        size = self.sizes[s][t]
        regressed = self.regressors[s][t](pool_to(student, size))  # type: ignore[index]
        pooled = pool_to(teacher, size)
        check_maps(regressed, pooled, "SemCKD")
        return squared_length(regressed - pooled) / regressed[0].numel()


def _embedding(n: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _regressor(k: int, d: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(k, 2 * d, kernel_size=1, bias=False),
        nn.BatchNorm2d(2 * d),
        nn.ReLU(),
        nn.Conv2d(2 * d, 2 * d, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(2 * d),
        nn.ReLU(),
        nn.Conv2d(2 * d, d, kernel_size=1, bias=False),
    )

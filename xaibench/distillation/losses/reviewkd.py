"""ReviewKD: deep student layers help to explain shallow teacher layers. Chen et al. 2021 (CVPR), arXiv 2104.09044."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.distillation.losses.layer import check_maps, squared_length
from xaibench.models.maps import Shape

__all__ = ["Fusion", "ReviewLoss", "hierarchical_context"]


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Weighted mean of mean squared errors at several sizes: maps (B, d, H, W) twice -> (B,).

    The maps as they are, with weight 1, then average-pooled to 4 x 4, 2 x 2, 1 x 1 where that is smaller, each with
    half the weight of the one before.
    """
    check_maps(student, teacher, "ReviewKD")
    sizes = [None, *(side for side in (4, 2, 1) if side < min(student.shape[2:]))]
    errors = []
    for size in sizes:
        s, t = (h if size is None else F.adaptive_avg_pool2d(h, size) for h in (student, teacher))
        errors.append(squared_length(s - t) / s[0].numel())
    weights = [0.5**i for i in range(len(errors))]
    return sum(w * e for w, e in zip(weights, errors)) / sum(weights)  # type: ignore[return-value]


class Fusion(nn.Module):
    """Attention-based fusion of a student layer with what the deeper ones left; a 1x1 and a 3x3 convolution around it.

    student  channels, height and width of the student's layer; teacher  those of the layer that is to be met
    width    channels of what is handed on
    deepest  nothing deeper is fused in
    """

    def __init__(self, student: Shape, teacher: Shape, width: int, *, deepest: bool) -> None:
        super().__init__()
        self.size = (teacher[1], teacher[2])
        self.enter = nn.Sequential(nn.Conv2d(student[0], width, 1, bias=False), nn.BatchNorm2d(width))
        self.leave = nn.Sequential(nn.Conv2d(width, teacher[0], 3, padding=1, bias=False), nn.BatchNorm2d(teacher[0]))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        for convolution in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Student maps (B, k, h, w), what the deeper layer handed on -> maps like the teacher's, what is handed on."""
        x = self.enter(maps)
        if self.attention is not None and deeper is not None:
            y = F.interpolate(deeper, x.shape[2:])
            share = self.attention(torch.cat([x, y], 1))
            x = x * share[:, :1] + y * share[:, 1:]
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size)
        return self.leave(x), x


class ReviewLoss(nn.Module):
    """Sum of `hierarchical_context` over layer pairs, from shallow to deep, and the last pair's mean over locations.

    What a pair's student layer gives is fused with what the deeper ones gave (`Fusion`), then held against its
    teacher layer. Sizes are met by the nearest neighbour's value. Channels between are the student's last, at most 512.
    """

    def __init__(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> None:
        super().__init__()
        teacher, student = ([*shapes, (shapes[-1][0], 1, 1)] for shapes in (teacher, student))
        width = min(512, student[-1][0])
        last = len(student) - 1
        self.fusions = nn.ModuleList(
            Fusion(s, t, width, deepest=i == last) for i, (s, t) in enumerate(zip(student, teacher))
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps (B, k_l, H, W) of the student's layers and (B, d_l, H, W) of the teacher's -> (B,)."""
        student, teacher = ([*maps, maps[-1].mean((2, 3), keepdim=True)] for maps in (student, teacher))
        losses, deeper = [], None
        for fusion, s, t in zip(reversed(self.fusions), reversed(student), reversed(teacher)):
            given, deeper = fusion(s, deeper)
            losses.append(hierarchical_context(given, t))
        return torch.stack(losses).sum(0)

"""FitNet: the teacher's maps are regressed from the student's by a learned 1x1 convolution. arXiv 1412.6550."""

from __future__ import annotations

from torch import Tensor, nn

from xaibench.distillation.losses.layer import LayerLoss, check_maps, squared_length
from xaibench.errors import unknown_name
from xaibench.models.maps import Shape, common_size, pool_to

__all__ = ["FITNET_VARIANTS", "FitNetLoss", "fitnet"]

FITNET_VARIANTS = ("mean", "channel-sum")


def fitnet(regressed: Tensor, teacher: Tensor, variant: str = "mean") -> Tensor:
    """mean (W h_S + b - h_T)^2 over channels and locations: (B, d, H, W) twice -> (B,).

    variant  "mean" (RepDistiller); "channel-sum" sums over the d channels (SubDistill's code), d times larger
    """
    check_maps(regressed, teacher, "fitnet")
    if variant not in FITNET_VARIANTS:
        raise unknown_name("FitNet variant", variant, FITNET_VARIANTS)
    value = squared_length(regressed - teacher) / (teacher.shape[2] * teacher.shape[3])
    return value if variant == "channel-sum" else value / teacher.shape[1]


class FitNetLoss(LayerLoss):
    """`fitnet` behind a learned 1x1 convolution with bias; the larger of the two maps is pooled to the smaller."""

    def __init__(self, teacher: Shape, student: Shape, variant: str = "mean") -> None:
        super().__init__()
        self.size = common_size(teacher, student)
        self.variant = variant
        self.regressor = nn.Conv2d(student[0], teacher[0], kernel_size=1)

    def target(self, teacher: Tensor) -> Tensor:
        return pool_to(teacher, self.size)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        return fitnet(self.regressor(pool_to(student, self.size)), target, self.variant)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.distillation.losses.fitnet import FITNET_VARIANTS, FitNetLoss, fitnet
from xaibench.errors import ConfigError, UnknownNameError

Normal = Callable[..., Tensor]


@pytest.mark.parametrize(
    ("variant", "stem", "key"),
    [
        ("mean", "repdistiller", "fitnet_mse_mean"),
        ("channel-sum", "subdistill", "fitnet(sum over channels, mean over space and batch)"),
    ],
)
def test_the_loss_is_the_public_codes(public: dict[str, Tensor], expected, variant: str, stem: str, key: str) -> None:  # type: ignore[no-untyped-def]
    loss = FitNetLoss((24, 5, 5), (8, 5, 5), variant)
    with torch.no_grad():
        loss.regressor.weight.copy_(public["fitnet_weight"][:, :, None, None])
        loss.regressor.bias.copy_(public["fitnet_bias"])  # type: ignore[union-attr]
    value = loss(public["student_feats"], loss.target(public["teacher_feats"]))
    assert value.mean().item() == pytest.approx(expected(stem)[key], rel=1e-5)


@pytest.mark.parametrize("variant", FITNET_VARIANTS)
def test_the_loss_is_the_definition_and_torchs(normal: Normal, variant: str) -> None:
    regressed, teacher = normal(2, 3, 2, 4), normal(2, 3, 2, 4, seed=1)
    have = fitnet(regressed, teacher, variant)
    for b in range(2):
        total = 0.0
        for c in range(3):
            for i in range(2):
                for j in range(4):
                    total += (regressed[b, c, i, j].item() - teacher[b, c, i, j].item()) ** 2
        assert have[b].item() == pytest.approx(total / (8 if variant == "channel-sum" else 24), rel=1e-10)
    if variant == "mean":
        assert have.mean().item() == pytest.approx(F.mse_loss(regressed, teacher).item(), rel=1e-10)
    assert torch.equal(fitnet(teacher, teacher, variant), torch.zeros(2).double())


def test_the_regression_can_reach_the_teacher(normal: Normal) -> None:
    student = normal(3, 4, 6, 6)
    loss = FitNetLoss((7, 3, 3), (4, 6, 6)).double()
    weight, bias = normal(7, 4, seed=1), normal(7, seed=2)
    with torch.no_grad():
        loss.regressor.weight.copy_(weight[:, :, None, None])
        loss.regressor.bias.copy_(bias)  # type: ignore[union-attr]
    pooled = F.adaptive_avg_pool2d(student, 3)
    teacher = torch.einsum("dk,bkhw->bdhw", weight, pooled) + bias[:, None, None]
    assert loss(student, loss.target(teacher)).max() < 1e-20


def test_what_does_not_fit_is_refused(normal: Normal) -> None:
    with pytest.raises(ConfigError, match=r"student \(2, 3, 2, 2\) and teacher \(1, 3, 2, 2\) must agree"):
        fitnet(normal(2, 3, 2, 2), normal(1, 3, 2, 2))
    with pytest.raises(UnknownNameError, match=r"unknown FitNet variant 'sum': .*Known: mean, channel-sum"):
        fitnet(normal(2, 3, 2, 2), normal(2, 3, 2, 2), "sum")

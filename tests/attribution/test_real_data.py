"""On a real CIFAR-100 teacher, where its weights and images lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError
from xaibench.models.architectures import build_model

SHARED = Path(__file__).parents[2] / ".." / "shared"
WEIGHTS = SHARED / "models" / "cifar100_resnet18.pth"
IMAGES = SHARED / "data" / "cifar100-40" / "test"
PREPROCESSING = Preprocessing((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047))

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_file() and IMAGES.is_dir()),
    reason="the CIFAR-100 teacher and images are not beside the checkout",
)


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    model = build_model("resnet18-cifar", 100)
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    files = sorted(IMAGES.glob("*/*.png"))[::500]
    pixels = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    return PREPROCESSING(torch.stack(pixels))


@pytest.fixture(scope="module")
def target(teacher: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(teacher(x))


def test_lrp_conserves_relevance(teacher: nn.Module, x: Tensor, target: Target) -> None:
    assert len(x) == 8
    attribution = explain_model(teacher, x, target, LRP(), PREPROCESSING)
    values = {check.name: check.value for check in attribution.validity.checks}
    assert values["LRP conservation error"] <= 1e-5
    assert values["imbalance of LRP's books"] <= 1e-5
    assert values["relative output difference"] <= 1e-3


@pytest.mark.slow
def test_integrated_gradients_reach_their_tolerance(teacher: nn.Module, x: Tensor, target: Target) -> None:
    few, black = target.take(range(4)), PREPROCESSING.bounds()[0].expand_as(x[:4])
    attribution = explain_model(teacher, x[:4], few, IntegratedGradients(), PREPROCESSING)
    with torch.no_grad():
        owed = few.select(teacher(x[:4])) - few.select(teacher(black))
    assert attribution.validity.flagged == ()
    assert float(attribution.measured["gradients"].max()) <= 200
    defect = (attribution.heatmaps.sum(dim=(1, 2)) - owed).abs() / attribution.heatmaps.abs().sum(dim=(1, 2))
    assert float(defect.max()) <= 0.005


def test_without_canonizer_it_is_refused(teacher: nn.Module, x: Tensor, target: Target) -> None:
    with pytest.raises(ExplanationError, match="LRP conservation error is 255"):
        explain_model(teacher, x, target, LRP(canonizer="none"), PREPROCESSING)

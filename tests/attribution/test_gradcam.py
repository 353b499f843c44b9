from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.gradcam import GradCAM, last_map
from xaibench.attribution.targets import Target, make_target
from xaibench.errors import ExplanationError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.class_slice import ClassSlice


class Pooled(nn.Module):
    """A linear network: 1x1 convolution, mean over locations, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 5, 1, bias=False)
        self.unused = nn.Conv2d(3, 5, 1)
        self.fc = nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(x).mean(dim=(2, 3)))


def vit() -> nn.Module:
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at 0
    return model.eval()


def timm_vit(pool: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 4}
    return timm.create_model("vit_tiny_patch16_224", global_pool=pool, **options).eval()


def test_exact_on_a_linear_model(x: Tensor, target: Target, preprocessing) -> None:
    model = Pooled()
    ours = explain_model(model, x, target, GradCAM(), preprocessing)
    weight = model.fc.weight.detach() @ model.mix.weight.detach()[:, :, 0, 0]
    weight = weight[target.label] - weight[target.contrast]
    wanted = torch.einsum("nc,nchw->nhw", weight, x) / 256
    torch.testing.assert_close(ours.heatmaps, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.relevance, wanted[:, None].expand_as(x) / 3, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        total = target.select(model(x))
    torch.testing.assert_close(ours.heatmaps.sum(dim=(1, 2)), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layer", ["layer2", "layer3.1.conv2", "layer4"])
def test_equals_captum(layer: str, relu: bool, network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    ours = explain_model(network, x, target, GradCAM(layer, relu), preprocessing, check=False)

    def forward(points: Tensor) -> Tensor:
        logits, rows = network(points), torch.arange(len(points))
        return logits[rows, target.label] - logits[rows, target.contrast]

    maps = LayerGradCam(forward, network.get_submodule(layer)).attribute(x, relu_attributions=relu)
    wanted = LayerAttribution.interpolate(maps, (16, 16), interpolate_mode="bilinear").detach()[:, 0]
    torch.testing.assert_close(ours.heatmaps, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))
    assert bool(ours.heatmaps.any())
    assert bool((ours.heatmaps < 0).any()) is not relu


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (lambda: build_model("resnet18-cifar:4-4-4-4@4", 4), "layer4"),
        (lambda: ClassSlice(build_model("resnet18-cifar:4-4-4-4@4", 4), (2, 1, 0, 3)), "layer4"),
        (Pooled, "mix"),
        (vit, "encoder.layers.encoder_layer_1.ln_1"),
        (lambda: timm_vit("token"), "blocks.1.norm1"),
        (lambda: timm_vit("avg"), "norm"),
    ],
)
def test_the_last_map_that_counts(build: Callable[[], nn.Module], layer: str, x: Tensor, preprocessing) -> None:
    model = build().eval()
    assert last_map(model, x.shape[1:]) == layer
    with torch.no_grad():
        target = make_target(model(x))
    auto, named = (explain_model(model, x, target, GradCAM(name), preprocessing) for name in ("auto", layer))
    assert torch.equal(auto.relevance, named.relevance)
    assert [check.name for check in auto.validity.checks[:1]] == ["layers with a single location"]
    assert f"'{layer}' gives" in auto.validity.checks[0].note


def test_tokens_become_maps(x: Tensor, preprocessing) -> None:
    model = vit()
    with torch.no_grad():
        target = make_target(model(x))
    ours = explain_model(model, x, target, GradCAM("encoder.layers.encoder_layer_1.ln_1"), preprocessing).heatmaps
    seen: list[Tensor] = []
    hook = model.encoder.layers[1].ln_1.register_forward_hook(lambda _m, _x, y: seen.append(y))
    logits = model(x.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(target.select(logits).sum(), seen[0])
    maps = (gradient[:, 1:].mean(dim=1, keepdim=True) * seen[0][:, 1:]).sum(dim=2).detach()
    wanted = nn.functional.interpolate(maps.view(5, 1, 4, 4), (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


def test_does_not_depend_on_the_batch(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    whole = GradCAM().attribute(network, x, target, preprocessing, Room(8)).relevance
    alone = GradCAM().attribute(network, x[3:4], target.take([3]), preprocessing, Room(1)).relevance
    torch.testing.assert_close(alone, whole[3:4], rtol=0, atol=1e-6 * float(whole.abs().max()))


class Side(Pooled):
    """The last layer runs without gradients."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x)
        with torch.no_grad():
            frozen = self.unused(x)
        return self.fc((mixed + frozen).mean(dim=(2, 3)))


def test_layers_without_gradients_are_passed_over(x: Tensor, target: Target, preprocessing) -> None:
    model = Side()
    assert last_map(model, x.shape[1:]) == "mix"
    with pytest.raises(ExplanationError, match=r"gradient error .* as behind torch.no_grad or detach: explain it with"):
        explain_model(model, x, target, GradCAM(), preprocessing)


@pytest.mark.parametrize("layer", ["layer1.0.bn2", "layer2.0.bn1"])
def test_a_layer_that_is_overwritten_behind_its_output(layer: str, network, x, target, preprocessing) -> None:
    """`+=` and in-place activations follow: what counts is what the layer gives."""
    model = torchvision.models.resnet18(num_classes=4).eval()
    ours = explain_model(model, x, target, GradCAM(layer), preprocessing).heatmaps
    seen: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _m, _x, y: seen.append(y) or y.clone())
    explained = target.select(model(x.clone().requires_grad_())).sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(explained, seen[0])
    cam = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True)
    wanted = nn.functional.interpolate(cam, (16, 16), mode="bilinear")[:, 0].detach()
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("build", "layer", "error", "message"),
    [
        (None, "layr4", UnknownNameError, "unknown layer of ScaledResNet18 'layr4': did you mean 'layer4'"),
        (None, "fc", ExplanationError, r"Grad-CAM needs maps, but layer 'fc' gives \(\d, 4\): choose an earlier"),
        (
            None,
            "avgpool",
            ExplanationError,
            r"layers with a single location is 1, at most 0 passes \('avgpool' gives 1x1: choose an earlier layer\)",
        ),
        (Pooled, "unused", ExplanationError, "layer 'unused' takes no part in a forward pass"),
        (lambda: Side(), "unused", ExplanationError, "layer 'unused' runs without gradients .*: choose another layer"),
        (
            vit,
            "encoder.ln",
            ExplanationError,
            "all-zero gradients is 4, .* depend on the locations of 'encoder.ln'",
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), "auto", ExplanationError, "Sequential has no layer"),
    ],
)
def test_layers_that_will_not_do(build, layer, error, message, network, x, target, preprocessing) -> None:
    with pytest.raises(error, match=message) as caught:
        explain_model(build() if build else network, x, target, GradCAM(layer), preprocessing)
    assert "\n" not in str(caught.value)

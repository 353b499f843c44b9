from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp.books import KINDS
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError


class FunctionalResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.a(x))
        return self.head(self.pool(self.relu(self.b(h)) + h).flatten(1))


class FunctionalRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.b(F.relu(self.a(x))))).flatten(1))


class NormAfterFunctionalRelu(nn.Module):
    """Its modules stand in the order conv, norm, but a relu comes between: merging them is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)
        nn.init.constant_(self.norm.running_mean, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.norm(F.relu(self.conv(x)))).flatten(1))


class Attentive(nn.Module):
    """Patches, a transformer layer, a head: the shape of a ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2))[:, 0])


class Normalised(FunctionalRelu):
    """The preprocessing is part of the network: what its first layer reads is not what the bounds are for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(3 * x - 1)


class Bilinear(FunctionalRelu):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.head(self.pool(F.relu(self.b(h)) * h).flatten(1))


class Grouped(FunctionalRelu):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(F.relu(self.norm(self.a(x)))).flatten(1))


class Side(FunctionalRelu):
    """Most of its signal comes from a branch that gradients do not reach."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = F.relu(self.a(x))
        return self.head(self.pool(0.1 * F.relu(self.a(x)) + 0.9 * frozen).flatten(1))


class Centred(FunctionalRelu):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.head(self.pool(F.relu(self.b(h - h.detach().mean((1, 2, 3), keepdim=True)))).flatten(1))


class JoinedSide(FunctionalRelu):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.head(self.pool(torch.cat([h[:, :3], h[:, 3:].detach()], dim=1)).flatten(1))


class Capped(FunctionalRelu):
    """The smaller one of two signals."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.head(self.pool(torch.clamp(h, max=self.b(h))).flatten(1))


class CappedDetached(FunctionalRelu):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.head(self.pool(torch.clamp(h, max=self.b(h).detach())).flatten(1))


class Resized(FunctionalRelu):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False))


class NormFirst(FunctionalRelu):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


class Rearranged(FunctionalRelu):
    """Reads the colours backwards, mirrored and framed: pixels all the same."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x[:, 2:], x[:, 1:2], x[:, :1]], dim=1).flip(3).contiguous()
        return super().forward(F.pad(h, (2, 2, 2, 2), mode="reflect"))


class Unnoticed(FunctionalRelu):
    """Adds in place and does not use what that returns."""

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        h.add_(F.relu(self.b(h)))
        return self.head(self.pool(h).flatten(1))


def question(model: nn.Module, x: Tensor) -> Target:
    with torch.no_grad():
        return make_target(model(x))


def test_a_resnet_passes_with_errors_far_below_the_bounds(network: nn.Module, x, target: Target, preprocessing) -> None:
    uncovered, difference, conservation, stabilisers, alone = LRP().validate(network, x, target, preprocessing)
    assert uncovered.value == 0
    assert 0 < difference.value < 3e-4
    assert conservation.value < 1e-5
    assert stabilisers.value < 1e-3
    assert alone.value < 1e-5


def test_conservation_does_not_depend_on_the_stabilisers(network: nn.Module, x, target: Target, preprocessing) -> None:
    assert LRP(epsilon=0.01).validate(network, x, target, preprocessing)[2].passed
    with torch.no_grad():
        network.fc.weight.mul_(1e-5)
    assert LRP().validate(network, x, target, preprocessing)[2].passed


def vgg(norm: bool) -> nn.Module:
    model = tv.VGG(tv.vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=norm), num_classes=4, init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 4))
    return model


SUPPORTED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: tv.resnet18(num_classes=4), 32),
    "resnet50": (lambda: tv.resnet50(num_classes=4), 32),
    "wide resnet": (lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], 4, width_per_group=128), 32),
    "vgg11": (lambda: vgg(norm=False), 32),
    "vgg11 bn": (lambda: vgg(norm=True), 32),
    "mobilenet v2": (lambda: tv.mobilenet_v2(num_classes=4), 32),
    "mobilenet v3": (lambda: tv.mobilenet_v3_small(num_classes=4), 32),
    "squeezenet": (lambda: tv.squeezenet1_1(num_classes=4), 64),
    "densenet": (lambda: tv.DenseNet(8, (2, 2), 16, num_classes=4), 32),
    "convnext": (lambda: tv.ConvNeXt([tv.convnext.CNBlockConfig(16, None, 2)], num_classes=4), 32),
    "swin": (lambda: tv.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=4), 32),
    "vit": (lambda: tv.VisionTransformer(32, 8, 3, 4, 32, 64, num_classes=4), 32),
    "timm resnet18": (lambda: timm.create_model("resnet18", num_classes=4), 32),
    "timm resnet50": (lambda: timm.create_model("resnet50", num_classes=4), 32),
    "timm mobilenet v4": (lambda: timm.create_model("mobilenetv4_conv_small", num_classes=4), 64),
    "timm mobilenet v2": (lambda: timm.create_model("mobilenetv2_100", num_classes=4), 32),
    "timm efficientnet-lite0": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=4), 32),
    "timm efficientnet-b0": (lambda: timm.create_model("efficientnet_b0", num_classes=4), 32),
    "timm vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=4), 32),
    "functional residual": (FunctionalResidual, 16),
    "functional relu": (FunctionalRelu, 16),
    "norm after relu": (NormAfterFunctionalRelu, 16),
    "transformer layer": (Attentive, 16),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_these_networks_pass_with_errors_far_below_the_bounds(name: str, preprocessing: Preprocessing) -> None:
    build, size = SUPPORTED[name]
    torch.manual_seed(0)
    model = unsettled(build())
    x = preprocessing(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    uncovered, difference, conservation, stabilisers, alone = LRP().validate(
        model, x, question(model, x), preprocessing
    )
    assert uncovered.value == 0, uncovered.note
    assert difference.value < 1e-4
    assert conservation.value < 1e-5
    assert stabilisers.passed
    assert alone.value < 1e-3


def unsettled(model: nn.Module) -> nn.Module:
    """Give every layer biases, every norm statistics and gains of its own: nothing is trivially 0 or 1."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rpartition(".")[2]
            if last in ("bias", "running_mean") or not value.is_floating_point():
                value.copy_(0.1 * torch.randn(value.shape)) if value.is_floating_point() else None
            elif last == "running_var" or (value.ndim == 1 and last == "weight"):
                value.copy_(0.5 + torch.rand(value.shape))
            elif not bool(value.any()):
                value.copy_(torch.randn(value.shape))
    return model.eval()


def test_a_resnet_without_canonizer_is_refused(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    explainer = LRP(canonizer="none")
    conservation = explainer.validate(network, x, target, preprocessing)[2]
    assert conservation.value > 100
    with pytest.raises(ExplanationError, match=r"LRP conservation error is \d+, at most 0.001 passes"):
        explain_model(network, x, target, explainer, preprocessing)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (Bilinear, {}, r"operations without an LRP rule is 1, .*\(mul in Bilinear: .*conservation error is"),
        (Grouped, {}, r"operations without an LRP rule is 1, .*\(group_norm in GroupNorm: "),
        (Side, {}, r"operations without an LRP rule is 1, .*\(add without gradients in Side: "),
        (Centred, {}, r"operations without an LRP rule is 1, .*\(sub without gradients in Centred: "),
        (JoinedSide, {}, r"operations without an LRP rule is 1, .*\(cat without gradients in JoinedSide: "),
        (Capped, {}, r"operations without an LRP rule is 1, .*\(clamp in Capped: "),
        (CappedDetached, {}, r"operations without an LRP rule is 1, .*\(clamp without gradients in CappedDetached: "),
        (Unnoticed, {}, r"relative output difference is 0\.\d+, at most 0.001"),
        (
            FunctionalResidual,
            {"canonizer": "none"},
            r"rule is 1, .*add in FunctionalResidual.*canonizer=auto",
        ),
        (FunctionalRelu, {"canonizer": "sequential"}, r"without an LRP rule is 2, .*relu in FunctionalRelu"),
        (NormAfterFunctionalRelu, {"canonizer": "sequential"}, r"relative output difference is 0\.\d+, at most 0.001"),
        (
            lambda: tv.mobilenet_v3_small(num_classes=4),
            {"canonizer": "sequential"},
            r"operations without an LRP rule is \d+, .*InvertedResidual.*conservation error is",
        ),
        (
            lambda: tv.mobilenet_v2(num_classes=4),
            {"composite": "alpha2-beta1"},
            r"not valid: share of relevance without a taker is 0\.\d+, at most 0.02 .* use composite=epsilon-gamma",
        ),
    ],
)
def test_networks_that_lrp_does_not_hold_for_are_refused(
    build, options, message: str, x: Tensor, preprocessing
) -> None:
    torch.manual_seed(0)
    model = unsettled(build())
    with pytest.raises(ExplanationError, match=message) as caught:
        explain_model(model, x, question(model, x), LRP(**options), preprocessing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [Normalised, Resized, NormFirst])
@pytest.mark.parametrize("canonizer", ["auto", "none"])
@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_the_box_rule_is_for_a_convolution_that_reads_the_image(
    build, canonizer: str, scale: float, x: Tensor, preprocessing
) -> None:
    """Whatever the values are, whether or not they happen to lie within the bounds."""
    torch.manual_seed(0)
    model, x = unsettled(build()), scale * x
    with pytest.raises(ExplanationError, match=r"reads the image, .* use composite=epsilon-plus, or move") as caught:
        explain_model(model, x, question(model, x), LRP(canonizer=canonizer), preprocessing)
    assert "\n" not in str(caught.value)


def test_nothing_falls_back_without_checks(x: Tensor, preprocessing) -> None:
    torch.manual_seed(0)
    model = unsettled(NormFirst())
    with pytest.raises(ExplanationError, match="reads the image"):
        explain_model(model, x, question(model, x), LRP(), preprocessing, check=False)
    explain_model(model, x, question(model, x), LRP("epsilon-plus"), preprocessing)


def test_the_box_moves_with_the_image(x: Tensor, preprocessing: Preprocessing) -> None:
    """A network that rearranges its input, against the plain one on the input and bounds rearranged beforehand."""
    torch.manual_seed(0)
    model = unsettled(Rearranged())
    target = question(model, x)
    got = explain_model(model, x, target, LRP(), preprocessing).relevance
    back = Preprocessing(preprocessing.mean[::-1], preprocessing.std[::-1])
    plain, framed = unsettled(FunctionalRelu()), F.pad(x.flip(1, 3), (2, 2, 2, 2), mode="reflect")
    plain.load_state_dict(model.state_dict())
    wanted = LRP().attribute(plain, framed, target, back, Room(8)).relevance
    folded = torch.zeros_like(x).requires_grad_()
    moved = F.pad(folded.flip(1, 3), (2, 2, 2, 2), mode="reflect")
    (wanted,) = torch.autograd.grad(moved, folded, grad_outputs=wanted)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype: torch.dtype, network, x, target, preprocessing) -> None:
    with pytest.raises(
        ExplanationError, match=r"computes in b?float16 \(conv1.weight\), whose rounding hides .* model\.float\(\)"
    ):
        explain_model(network.to(dtype), x.to(dtype), target, LRP(), preprocessing)


def test_a_preprocessing_within_the_network_is_no_matter_without_a_box(x: Tensor, preprocessing) -> None:
    torch.manual_seed(0)
    model = unsettled(Normalised())
    uncovered, difference, *_ = LRP(composite="epsilon-plus").validate(model, x, question(model, x), preprocessing)
    assert uncovered.passed
    assert difference.passed


def test_a_vision_transformer_is_beyond_zennit_alone(preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = unsettled(tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4))
    images = preprocessing(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with pytest.raises(ExplanationError, match="layer_norm in LayerNorm"):
        explain_model(model, images, question(model, images), LRP(canonizer="sequential"), preprocessing)


def test_a_network_whose_logits_are_nothing_but_biases_has_no_map(x: Tensor, preprocessing: Preprocessing) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 14, 4)).eval()
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(ExplanationError, match="all-zero maps is 5"):
        explain_model(model, x, question(model, x), LRP(), preprocessing)


def test_each_image_that_loses_relevance_is_flagged_wherever_it_stands() -> None:
    measured = {f"absorbed_{kind}": torch.zeros(6) for kind in KINDS} | {"explained": torch.ones(6)}
    measured |= {"imbalance": torch.zeros(6), "absorbed_missing_sign": torch.tensor([0, 0, 0.5, -0.3, 0.01, 0])}
    checks, flagged = LRP().judge(measured)
    assert flagged == (2, 3)
    assert all(check.passed for check in checks)
    assert "2 of 6 maps lose over 2% of their relevance" in checks[-1].note


@pytest.mark.parametrize(("scale", "passes"), [(1.0, True), (1e-7, False)])
def test_a_network_whose_values_drown_in_stabilisers_is_refused(scale: float, passes: bool, x, preprocessing) -> None:
    """The same function, from weights that are too small for the rules' denominators."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), Pooled(), nn.Linear(8, 4)
    ).eval()
    with torch.no_grad():
        for value in (model[0].weight, model[0].bias, model[2].bias):
            value.mul_(scale)
        model[-1].weight.div_(scale)
    target = question(model, x)
    if passes:
        assert explain_model(model, x, target, LRP(), preprocessing).validity.flagged == ()
        return
    with pytest.raises(ExplanationError, match=r"share of relevance left to stabilisers is .* \(outputs are as small"):
        explain_model(model, x, target, LRP(), preprocessing)
    maps = explain_model(model, x, target, LRP(), preprocessing, check=False)
    assert maps.validity.flagged == (0, 1, 2, 3, 4)
    explain_model(model, x, target, LRP(epsilon=1e-7), preprocessing)  # what one asks for oneself is no fault


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

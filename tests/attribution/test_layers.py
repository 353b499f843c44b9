from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.batch_size import Room
from xaibench.attribution.layers import LayerRelevance, direction_heatmaps, layer_relevance, lrp_or_gradient
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, ModelError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.models.class_slice import ClassSlice

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def without_biases(model: nn.Module) -> nn.Module:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.rpartition(".")[2] in ("bias", "running_mean"):
            value.detach().zero_()
    return model


def heatmaps(model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> Tensor:
    return LRP().attribute(copy.deepcopy(model).eval(), x, target, preprocessing, Room(len(x))).relevance.sum(1)


def orthonormal(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q


def test_relevance_is_conserved_at_every_layer(network: nn.Module, x: Tensor, preprocessing) -> None:
    bare = without_biases(network)
    # Without biases z(s x) = s z(x): large inputs make the rules' stabilisers negligible.
    large = Preprocessing(preprocessing.mean, tuple(s / 2**16 for s in preprocessing.std))
    x = x * 2**16
    with torch.no_grad():
        logits = bare(x)
    target = make_target(logits)
    found = layer_relevance(bare, x, target, LRP(), large, LAYERS)
    assert list(found) == list(LAYERS)
    for layer in found.values():
        torch.testing.assert_close(layer.relevance.sum(dim=(1, 2, 3)), target.select(logits), rtol=1e-3, atol=0)


def test_gradient_times_activation_is_what_autograd_gives(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    found = layer_relevance(network, x, target, None, preprocessing, ["layer2", "layer4"])
    early = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2)
    h = early(x).detach().requires_grad_()
    logits = network.fc(network.avgpool(network.layer4(network.layer3(h))).flatten(1))
    (gradient,) = torch.autograd.grad(target.select(logits).sum(), h)
    torch.testing.assert_close(found["layer2"].activation, h.detach())
    torch.testing.assert_close(found["layer2"].context, gradient)
    torch.testing.assert_close(found["layer2"].relevance, h.detach() * gradient)
    last = found["layer4"].relevance.sum(dim=(1, 2, 3))
    bias = network.fc.bias[target.label] - network.fc.bias[target.contrast]
    with torch.no_grad():
        torch.testing.assert_close(last, target.select(network(x)) - bias, rtol=1e-4, atol=1e-5)


def test_context_is_relevance_by_activation_where_there_is_any(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    layer = layer_relevance(network, x, target, LRP(), preprocessing, ["layer3"])["layer3"]
    assert bool((layer.activation == 0).any())
    assert not bool(layer.context[layer.activation == 0].any())
    assert bool(layer.context.any())
    assert bool(torch.isfinite(layer.context).all())


def test_slices_batches_and_the_model(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    before = state_hash(network)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    whole = layer_relevance(network, x, target, LRP(), preprocessing, LAYERS)
    seen: list[int] = []
    parts = layer_relevance(network, x, target, LRP(), preprocessing, LAYERS, memory=1, on_batch=seen.append)
    assert seen == [2, 2, 1]
    sliced = ClassSlice(network, (3, 2, 1, 0))
    mirrored = Target(3 - target.label, 3 - target.contrast)
    other = layer_relevance(sliced, x, mirrored, LRP(), preprocessing, LAYERS)
    for name in LAYERS:
        torch.testing.assert_close(parts[name].relevance, whole[name].relevance, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(other[name].relevance, whole[name].relevance, rtol=1e-4, atol=1e-7)
    assert state_hash(network) == before
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()] == hooks
    assert not network.training


@pytest.mark.parametrize("layer", ["layer1", "layer4"])
def test_all_directions_add_up_to_the_heatmap(layer: str, network: nn.Module, x: Tensor, target: Target, preprocessing):
    maps = direction_heatmaps(network, x, target, LRP(), preprocessing, layer, orthonormal(8))
    assert maps.shape == (5, 8, 16, 16)
    wanted = heatmaps(network, x, target, preprocessing)
    torch.testing.assert_close(maps.sum(1), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(maps[:, 0], maps[:, 1])


def test_with_gradients_directions_add_up_to_input_times_gradient(
    network: nn.Module, x: Tensor, target: Target, preprocessing
) -> None:
    maps = direction_heatmaps(network, x, target, None, preprocessing, "layer2", orthonormal(8))
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.select(network(start)).sum(), start)
    wanted = (x * gradient).sum(1)
    torch.testing.assert_close(maps.sum(1), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_a_channel_is_a_direction(x: Tensor, preprocessing) -> None:
    """With one channel a class and nothing behind but the mean, channel j answers for logit j alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    target = make_target(model(x).detach())
    found = layer_relevance(model, x, target, LRP(), preprocessing, ["1"])["1"]
    maps = direction_heatmaps(model, x, target, LRP(), preprocessing, "1", torch.eye(4, dtype=torch.float64))
    logits = model(x).detach()
    for image in range(len(x)):
        y, r = int(target.label[image]), int(target.contrast[image])
        sums = torch.zeros(4)
        sums[y], sums[r] = logits[image, y], -logits[image, r]
        torch.testing.assert_close(found.relevance[image].sum(dim=(1, 2)), sums, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(maps[image].sum(dim=(1, 2)), sums, rtol=2e-2, atol=1e-4)


def test_lrp_where_it_is_valid_else_gradients(
    network: nn.Module, x: Tensor, target: Target, preprocessing, caplog: pytest.LogCaptureFixture
) -> None:
    assert lrp_or_gradient(network, x, target, preprocessing, LRP(gamma=0.5)) == LRP(gamma=0.5)
    assert not caplog.records

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return self.fc(torch.fft.rfft2(h).abs().mean(dim=(2, 3)))

    assert lrp_or_gradient(Odd().eval(), x, target, preprocessing) is None
    assert "gradient x activation instead of LRP: LRP of Odd is not valid" in caplog.text


def test_relevance_on_inactive_channels_is_refused(
    network: nn.Module, x: Tensor, target: Target, preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(self: LRP, model: nn.Module, preprocessing: object, device: object = None):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        return nullcontext(model)  # plain gradients, which inactive channels have too

    monkeypatch.setattr(LRP, "modified", flat)
    with pytest.raises(ExplanationError, match=r"at 'layer3' sits on inactive channels, at most 0\.1% may"):
        layer_relevance(network, x, target, LRP(), preprocessing, ["layer3"])


def test_bad_input(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'layer3'"):
        layer_relevance(network, x, target, None, preprocessing, ["layer33"])
    with pytest.raises(ModelError, match=r"layer 'fc' gives \(5, 4\), not maps"):
        layer_relevance(network, x, target, None, preprocessing, ["fc"])
    with pytest.raises(ExplanationError, match="3 images but 5 targets"):
        layer_relevance(network, x[:3], target, None, preprocessing, ["layer1"])
    with pytest.raises(ExplanationError, match=r"but pixels 0\.\.255 give"):
        layer_relevance(network, x + 10, target, LRP(), preprocessing, ["layer1"])
    for wrong in (torch.eye(7), torch.ones(8)):
        with pytest.raises(ConfigError, match=r"do not fit the 8 channels of layer 'layer1': give \(8, k\)"):
            direction_heatmaps(network, x, target, None, preprocessing, "layer1", wrong)


def test_tokens_of_a_transformer_are_maps(x: Tensor, preprocessing) -> None:
    model = build_model("timm/vit_tiny_patch16_224", 4).eval()
    big = nn.functional.interpolate(x[:1], size=(224, 224))
    target = make_target(model(big).detach())
    found = layer_relevance(model, big, target, None, preprocessing, ["blocks.5"])["blocks.5"]
    assert isinstance(found, LayerRelevance)
    assert found.relevance.shape == (1, 192, 14, 14)
    assert bool(found.relevance.any())


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "unknown device 'gpu': write cpu, cuda"), ("mps", "device 'mps' has no float64")]
)
def test_devices_are_refused_as_everywhere(device: str, said: str, network, x, target, preprocessing) -> None:
    with pytest.raises(ConfigError, match=said):
        layer_relevance(network, x, target, LRP(), preprocessing, ("layer1",), device=device)
    with pytest.raises(ConfigError, match=said):
        direction_heatmaps(network, x, target, LRP(), preprocessing, "layer1", orthonormal(8).float(), device=device)
    with pytest.raises(ConfigError, match=said):
        lrp_or_gradient(network, x, target, preprocessing, device=device)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xaibench.errors import ConfigError, ModelError
from xaibench.models.architectures import build_model
from xaibench.models.class_slice import ClassSlice
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.local_logits import SCALES, SpatialHead, local_logits, spatial_head

Make = Callable[..., Tensor]


def maps_of(model: nn.Module, head: SpatialHead, x: Tensor) -> Tensor:
    return forward_with_layers(model, x, (head.layer,)).layers[head.layer]


def linear_head(k: int = 3, d: int = 4) -> SpatialHead:
    torch.manual_seed(0)
    return SpatialHead("map", d, ((nn.Linear(d, k), 2),), None)


@pytest.mark.parametrize(
    ("name", "side", "layer", "linear"),
    [
        ("resnet18-cifar:4-4-4-8@4", 32, "layer4", True),
        ("resnet18:4-4-4-8@4", 128, "layer4", True),
        ("mobilenet_v2", 64, "features", True),
        ("efficientnet_b0", 64, "features", True),
        ("squeezenet1_1", 72, "classifier.2", False),
        ("timm/resnet18", 64, "layer4", True),
        ("timm/mobilenetv4_conv_small", 128, "blocks", False),
        ("timm/tf_efficientnet_lite0", 64, "bn2", True),
    ],
)
def test_the_cell_that_is_the_whole_map_has_the_models_logits(
    name: str, side: int, layer: str, linear: bool, noise: Make, footprint: Callable[[nn.Module], object]
) -> None:
    model = build_model(name, 5)
    for module in model.modules():  # running statistics and biases that are not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.2, 0.2)
    before = footprint(model)
    x = noise(3, 3, side, side)
    head = spatial_head(model, x)
    assert footprint(model) == before
    assert head.layer == layer
    sliced = ClassSlice(model, (4, 0, 2))
    sliced_head = spatial_head(sliced, torch.zeros_like(x))
    model.eval()
    with torch.no_grad():
        logits, maps = model(x), maps_of(model, head, x)
        exact = local_logits(maps, head, exact_global=True)
        assert exact.shape == (3, 5, 21)
        scale = logits.abs().max().item()
        torch.testing.assert_close(exact[:, :, 0], logits, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(local_logits(maps, head, (1,))[:, :, 0], logits, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(local_logits(maps, sliced_head), local_logits(maps, head)[:, [4, 0, 2]])
        assert (head.weight is not None) == linear
        if head.weight is not None and head.bias is not None:
            torch.testing.assert_close(maps.mean((2, 3)) @ head.weight.T + head.bias, logits, rtol=0, atol=1e-5 * scale)
            assert torch.equal(sliced_head.weight, head.weight[[4, 0, 2]])  # type: ignore[arg-type]
            assert torch.equal(sliced_head.bias, head.bias[[4, 0, 2]])  # type: ignore[arg-type]


@pytest.mark.parametrize("side", range(1, 10))
def test_pooling_through_4x4_keeps_the_mean_for_some_sides_only(side: int, noise: Make) -> None:
    head, maps = linear_head(), noise(2, 4, side, side)
    through, exact = (local_logits(maps, head, (1,), exact_global=e)[:, :, 0] for e in (False, True))
    assert torch.allclose(exact, head.cells(maps.mean((2, 3))), atol=1e-6)
    assert torch.allclose(through, exact, atol=1e-5) == (side in (1, 2, 4, 8))


def slow_local_logits(maps: Tensor, weight: Tensor, bias: Tensor, scales: tuple[int, ...], exact: bool) -> Tensor:
    """One cell at a time; the windows of adaptive pooling run from floor(i n / 4) to ceil((i + 1) n / 4)."""
    b, d, height, width = maps.shape
    grid = torch.zeros(b, d, 4, 4, dtype=maps.dtype)
    for i in range(4):
        for j in range(4):
            rows = range(i * height // 4, -((i + 1) * -height // 4))
            columns = range(j * width // 4, -((j + 1) * -width // 4))
            for r in rows:
                for c in columns:
                    grid[:, :, i, j] += maps[:, :, r, c] / (len(rows) * len(columns))
    cells = []
    for scale in scales:
        step = 4 // scale
        for i in range(scale):
            for j in range(scale):
                window = grid[:, :, i * step : (i + 1) * step, j * step : (j + 1) * step].mean((2, 3))
                if scale == 1 and exact:
                    window = maps.flatten(2).mean(2)
                cells.append(torch.stack([sum(w * v for w, v in zip(row, window.T)) for row in weight], 1) + bias)
    return torch.stack(cells, dim=2)


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scales=st.sampled_from(SCALES),
    exact=st.booleans(),
    chosen=st.sampled_from([None, (2, 0)]),
)
def test_local_logits_are_those_of_the_slow_twin(
    height: int, width: int, scales: tuple[int, ...], exact: bool, chosen: tuple[int, ...] | None
) -> None:
    linear = nn.Linear(4, 3).double()
    piece = ClassSlice(linear, chosen) if chosen else None
    head = SpatialHead("map", 4, ((linear, 2),), piece)
    maps = torch.randn(2, 4, height, width, dtype=torch.float64)
    have = local_logits(maps, head, scales, exact_global=exact)
    want = slow_local_logits(maps, linear.weight, linear.bias, scales, exact)
    assert have.shape[2] == sum(s * s for s in scales)
    torch.testing.assert_close(have, want if chosen is None else want[:, list(chosen)], rtol=1e-10, atol=1e-12)


def test_the_gradient_reaches_weights_before_and_behind_the_pooling(noise: Make) -> None:
    model = build_model("timm/mobilenetv4_conv_small", 3)
    head = spatial_head(model, noise(2, 3, 64, 64))
    model.train()
    outputs = forward_with_layers(model, noise(4, 3, 64, 64), (head.layer,))
    statistics = {k: v.clone() for k, v in model.norm_head.state_dict().items()}  # type: ignore[union-attr]
    local_logits(outputs.layers[head.layer], head).square().sum().backward()
    for part in ("conv_stem", "conv_head", "norm_head", "classifier"):
        assert getattr(model, part).weight.grad.abs().sum() > 0
    assert all(torch.equal(v, statistics[k]) for k, v in model.norm_head.state_dict().items())  # type: ignore[union-attr]
    assert all(module.training for module in model.modules())


def test_a_cell_depends_on_itself_alone_also_in_training(noise: Make) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model = nn.Sequential(*layers, nn.Linear(4, 2)).train()
    head = spatial_head(model, noise(2, 3, 8, 8))
    assert head.layer == "1"
    assert head.weight is None
    assert head.bias is None
    vectors = noise(6, 4)
    together = head.cells(vectors)
    torch.testing.assert_close(together, torch.cat([head.cells(v[None]) for v in vectors]))
    assert all(module.training for module in model.modules())
    assert model[5].num_batches_tracked == 0


def test_the_head_follows_the_model(noise: Make) -> None:
    model = build_model("resnet18-cifar:4-4-4-4@4", 3)
    head, vectors = spatial_head(model, noise(1, 3, 16, 16)), noise(2, 4)
    before = head.cells(vectors)
    assert head.weight is model.fc.weight  # type: ignore[union-attr]
    with torch.no_grad():
        model.fc.bias += 1  # type: ignore[operator,union-attr]
    assert torch.allclose(head.cells(vectors), before + 1)
    holder = nn.Module()
    holder.head = head  # type: ignore[assignment]
    assert list(holder.parameters()) == []
    assert repr(head) == "SpatialHead(layer4, d=4, [Linear])"


@pytest.mark.parametrize("slice_", [False, True])
def test_a_vit_is_refused(slice_: bool, tiny_vit: Callable[..., nn.Module], noise: Make) -> None:
    vit = tiny_vit(2)
    nn.init.zeros_(vit.heads.head.weight)  # type: ignore[arg-type,union-attr]
    model = ClassSlice(vit, (0, 1)) if slice_ else vit
    with pytest.raises(ModelError, match=r"VisionTransformer has no global average pooling .* use a method without"):
        spatial_head(model, noise(2, 3, 16, 16))


class Parallel(nn.Module):
    """Two classifiers whose logits are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        result: Tensor = (self.a(x) + self.b(x)) / 2
        return result


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(196, 8), nn.Linear(8, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(432, 3)),
        Parallel(),
    ],
    ids=["vgg", "max", "mlp", "parallel"],
)
def test_other_heads_are_refused(model: nn.Module, noise: Make, footprint: Callable[[nn.Module], object]) -> None:
    before = footprint(model)
    with pytest.raises(ModelError, match="has no global average pooling followed by a linear head") as caught:
        spatial_head(model, noise(2, 3, 12, 12))
    assert "\n" not in str(caught.value)
    assert footprint(model) == before


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18-cifar:4-4-4-4@4", 8), ("timm/mobilenetv4_conv_small", 32), ("mobilenet_v2", 32)]
)
def test_a_last_map_without_cells_is_refused(name: str, side: int, noise: Make) -> None:
    with pytest.raises(ModelError, match=rf"is 1x1 for {side}x{side} images and has no cells: use larger images"):
        spatial_head(build_model(name, 3), noise(1, 3, side, side))


def test_scales_and_maps_that_do_not_fit_are_refused(noise: Make) -> None:
    for scales in ((), (2,), (4, 1), (1, 3), (1, 2, 4, 8)):
        with pytest.raises(ConfigError, match=r"scales must be one of \(1,\), \(1, 2\), \(1, 4\), \(1, 2, 4\), got"):
            local_logits(noise(2, 4, 8, 8), linear_head(), scales)
    for shape in ((2, 5, 8, 8), (2, 4)):
        with pytest.raises(ConfigError, match=r"maps must be \(B, 4, H, W\), got .*: give those of layer 'map'"):
            local_logits(noise(*shape), linear_head())

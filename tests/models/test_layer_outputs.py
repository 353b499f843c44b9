from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from xaibench.errors import ModelError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import (
    evaluating,
    forward_with_layers,
    layer_module,
    observe,
    readable,
    replaced,
    tapped,
)

Make = Callable[..., Tensor]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


class Twins(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"maps": x}


def test_outputs_are_those_of_the_layers(net: nn.Sequential) -> None:
    x = torch.randn(5, 3)
    with tapped(net, ["0", "1.0", "0"]) as outputs:
        y = net(x)
        assert hooks(net) == 3
    assert torch.equal(outputs["0"], net[0](x))
    assert torch.equal(outputs["1.0"], net[0](x).relu())
    assert torch.equal(y, net(x))
    assert list(outputs) == ["0", "1.0"]
    assert hooks(net) == 0


def test_outputs_belong_to_the_graph(net: nn.Sequential) -> None:
    with tapped(net, ["1.0"]) as outputs:
        y = net(torch.randn(5, 3))
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), outputs["1.0"])
    assert torch.allclose(gradient, net[1][1].weight[0].expand(5, 4))  # type: ignore[index]


@pytest.mark.parametrize("gradients", [True, False])
def test_what_follows_in_place_does_not_change_them(gradients: bool, noise: Make) -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    names, x, true = ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.bn2"], noise(2, 3, 32, 32), {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _x, y, name=name: true.__setitem__(name, y.detach().clone())
        )
    plain = model(x)
    with torch.set_grad_enabled(gradients), tapped(model, names) as outputs:
        logits = model(x)
    assert torch.equal(logits, plain)
    seen = {call.name: call for call in observe(model, x)}
    for name in names:
        assert torch.equal(outputs[name], true[name])
        assert torch.equal(seen[name].output, true[name])  # type: ignore[arg-type]
    assert torch.equal(seen["layer1.0.relu"].input, seen["layer1.0"].output) is False  # type: ignore[arg-type]
    assert float(seen["layer1.0.relu"].input.min()) < 0  # type: ignore[union-attr]


def test_no_hook_stays_after_an_exception(net: nn.Sequential) -> None:
    with pytest.raises(KeyboardInterrupt), tapped(net, ["0", "1"]):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), tapped(net, ["0", "1"]):
        net(torch.randn(5, 99))
    assert hooks(net) == 0


def test_an_unknown_layer_has_a_suggestion_and_leaves_no_hook(net: nn.Sequential) -> None:
    with (
        pytest.raises(UnknownNameError, match=r"unknown layer of Sequential '1\.': did you mean"),
        tapped(net, ["0", "1."]),
    ):
        pass
    assert hooks(net) == 0
    with pytest.raises(UnknownNameError, match="unknown layer of Sequential ''"):
        layer_module(net, "")


def test_a_layer_without_a_tensor_is_refused() -> None:
    net = nn.Sequential(Named())
    with pytest.raises(ModelError, match="layer '0' returns a dict, not a tensor"), tapped(net, ["0"]):
        net(torch.ones(1))
    assert hooks(net) == 0


class Handing(nn.Module):
    """A layer that hands on its output in what `hold` makes of it."""

    def __init__(self, hold: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.hold = nn.Conv2d(3, 4, 3), hold

    def forward(self, x: Tensor) -> Any:
        return self.hold(self.layer(x))


class Reading(nn.Sequential):
    """Sums over locations what `Handing` hands on first, and checks that the rest comes with it."""

    def __init__(self, hold: Callable[[Tensor], Any]) -> None:
        super().__init__(Handing(hold))

    def forward(self, x: Tensor) -> Tensor:
        held = self[0](x)
        assert type(held) is type(self[0].hold(x))
        assert held[1:] == self[0].hold(x)[1:]
        return held[0].square().sum((2, 3))


class Held(NamedTuple):
    maps: Tensor
    rest: object


@pytest.mark.parametrize(
    "hold", [lambda h: (h,), lambda h: [h, None], lambda h: Held(h, (1, 2))], ids=["tuple", "list", "named tuple"]
)
def test_of_what_a_layer_hands_on_together_the_first_counts(hold: Callable[[Tensor], Any], noise: Make) -> None:
    net, x = Reading(hold), noise(2, 3, 8, 8)
    plain = net(x)
    with tapped(net, ["0"]) as outputs:
        y = net(x)
    assert torch.equal(y, plain)
    torch.testing.assert_close(outputs["0"], net[0].layer(x))
    (gradient,) = torch.autograd.grad(y.sum(), outputs["0"])
    torch.testing.assert_close(gradient, 2 * outputs["0"])
    torch.testing.assert_close({call.name: call for call in observe(net, x)}["0"].output, net[0].layer(x))
    assert hooks(net) == 0


def test_of_tensors_of_one_shape_the_first_is_the_layers() -> None:
    net, x = nn.Sequential(Twins()), torch.ones(2, 3)
    with tapped(net, ["0"]) as outputs:
        first, second = net(x)
    assert outputs["0"] is x is second
    assert torch.equal(first, x)
    assert first is not x


class WindowAttention(nn.Module):
    """Attention in windows of 2x2 tokens, and a normalisation that sees windows first and tokens then."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 8, 2, 2), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.mlp, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        windows = maps.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).flatten(3, 4).flatten(0, 2)
        mixed, _ = self.attention(self.norm(windows), windows, windows)
        tokens = maps.flatten(2).transpose(1, 2) + mixed.reshape(len(x), -1, 8)
        result: Tensor = self.head(self.mlp(self.norm(tokens)).mean(1))
        return result


def test_what_works_on_parts_of_an_image_or_within_attention_is_not_readable(noise: Make) -> None:
    net, x = WindowAttention(), noise(2, 3, 8, 8)
    calls = observe(net, x)
    assert [call.output is None for call in calls if call.name == "norm"] == [True, False]
    names = [call.name for call in readable(calls)]
    assert names == ["embed", "mlp", "head"]
    with tapped(net, names):
        net(x)
    with pytest.raises(ModelError, match=r"layer 'norm' gives \(8, 4, 8\) for 2 images"), tapped(net, ["norm"]):
        net(x)


class Patches(nn.Module):
    """Images (B, 3, H, W) -> tokens of 2x2 pixels behind `prefix` tokens of ones; `mix` sees them, `head` their sum."""

    def __init__(self, prefix: int, channels: int = 5) -> None:
        super().__init__()
        self.prefix = prefix
        self.embed, self.mix = nn.Conv2d(3, channels, 2, stride=2), nn.Linear(channels, channels)
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([torch.ones_like(tokens[:, :1]).expand(-1, self.prefix, -1), tokens], dim=1)
        result: Tensor = self.head(self.mix(tokens).square().sum(1))
        return result


@pytest.mark.parametrize(("prefix", "declared"), [(0, False), (1, False), (2, False), (0, True), (1, True), (3, True)])
@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_tokens_become_maps_without_their_prefix(
    prefix: int, declared: bool, size: tuple[int, int], noise: Make
) -> None:
    net, x = Patches(prefix), noise(2, 3, *size)
    if declared:
        net.num_prefix_tokens = prefix  # type: ignore[assignment]
    plain = net(x)
    tokens = net.mix(torch.cat([torch.ones(2, prefix, 5), net.embed(x).flatten(2).transpose(1, 2)], dim=1))
    with tapped(net, ["mix"]) as outputs:
        logits = net(x)
    assert torch.equal(logits, plain)
    rows, columns = size[0] // 2, size[1] // 2
    assert outputs["mix"].shape == (2, 5, rows, columns)
    for i in range(rows):
        for j in range(columns):
            assert torch.allclose(outputs["mix"][:, :, i, j], tokens[:, prefix + i * columns + j])
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), outputs["mix"])
    expected = 2 * outputs["mix"] * net.head.weight[1][:, None, None]  # type: ignore[index]
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_tokens_before_the_prefix_is_joined(noise: Make) -> None:
    net = build_model("timm/vit_tiny_patch16_224", 3).eval()
    with torch.no_grad(), tapped(net, ["patch_embed", "blocks.0", "norm"]) as outputs:
        net(noise(1, 3, 224, 224))
    assert {tuple(v.shape) for v in outputs.values()} == {(1, 192, 14, 14)}


def test_tokens_that_fill_no_grid_are_refused(noise: Make) -> None:
    net = Patches(3)
    with (
        pytest.raises(ModelError, match=r"'mix' gives 19 tokens, .* 0 or 1 or 2 prefix tokens: .* num_prefix_tokens"),
        tapped(net, ["mix"]),
    ):
        net(noise(1, 3, 8, 8))
    assert hooks(net) == 0
    cropped = Patches(0)
    with pytest.raises(ModelError, match="gives 16 tokens, which fill no grid"), tapped(cropped, ["mix"]):
        cropped(noise(1, 3, 8, 9))


class ChannelsLast(nn.Module):
    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.mix = nn.Linear(3, channels)
        self.inner = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.mix(x.permute(0, 2, 3, 1)).square().permute(0, 3, 1, 2)).sum((2, 3))


def test_maps_with_channels_last_become_maps(noise: Make) -> None:
    net, x = ChannelsLast(), noise(2, 3, 4, 4)
    plain = net(x)
    with tapped(net, ["mix", "inner"]) as outputs:
        logits = net(x)
    assert torch.equal(logits, plain)
    assert outputs["mix"].shape == outputs["inner"].shape == (2, 5, 4, 4)
    assert torch.allclose(outputs["mix"], net.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    (gradient,) = torch.autograd.grad(logits.sum(), outputs["mix"])
    expected = 2 * outputs["mix"] * net.inner.weight.sum(0).view(1, 5, 1, 1)
    assert torch.allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize(("side", "channels"), [((5, 5), 5), ((4, 6), 7)])
def test_channels_last_that_cannot_be_told_is_refused(side: tuple[int, int], channels: int, noise: Make) -> None:
    net = ChannelsLast(channels)
    net.output_fmt = "NHWC"  # type: ignore[assignment]
    message = r"layer 'mix' gives .*, and which dimension .* cannot be told: pair another"
    with pytest.raises(ModelError, match=message), tapped(net, ["mix"]):
        net(noise(1, 3, *side))


@pytest.mark.parametrize(
    ("net", "layer"), [(Patches(1), "mix"), (ChannelsLast(), "mix"), (ChannelsLast(), "inner"), (Reading(tuple), "0")]
)
def test_a_model_goes_on_with_what_replaces_a_layers_maps(net: nn.Module, layer: str, noise: Make) -> None:
    if isinstance(net, Reading):
        net = Reading(lambda h: (h, "the rest"))
    x = noise(2, 3, 4, 4)
    plain, seen = net(x), []

    def scaled(maps: Tensor) -> Tensor:
        seen.append(maps.detach())
        return 3 * maps

    with tapped(net, [layer]) as outputs:
        net(x)
    with replaced(net, layer, scaled):
        changed = net(x)
        private_copy(net)(x)
    assert torch.equal(net(x), plain)
    assert hooks(net) == 0
    (maps,) = seen  # a copy is left alone
    assert torch.equal(maps, outputs[layer])
    again = dict(net.named_modules())[layer].register_forward_hook(
        lambda _module, _args, output: (
            (3 * output[0], *output[1:])
            if isinstance(output, tuple)
            else torch.cat([output[:, :1], 3 * output[:, 1:]], dim=1)
            if output.ndim == 3
            else 3 * output
        )
    )
    torch.testing.assert_close(changed, net(x))
    again.remove()


def test_a_replacement_that_fails_leaves_no_hook(noise: Make) -> None:
    net = Patches(0)
    with pytest.raises(ZeroDivisionError), replaced(net, "mix", lambda maps: maps * (1 // 0)):
        net(noise(1, 3, 4, 4))
    with pytest.raises(UnknownNameError, match="did you mean 'mix'"), replaced(net, "mixx", lambda maps: maps):
        pass
    assert hooks(net) == 0


def test_swin_gives_maps(noise: Make) -> None:
    torch.manual_seed(0)
    net = SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3).eval()
    with torch.no_grad(), tapped(net, ["features.1", "features.3", "permute"]) as outputs:
        net(noise(1, 3, 24, 24))
    assert [tuple(v.shape) for v in outputs.values()] == [(1, 8, 6, 6), (1, 16, 3, 3), (1, 16, 3, 3)]
    assert torch.equal(outputs["permute"], net.norm(outputs["features.3"].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Windows(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        halves = self[0](torch.cat(x.chunk(2, dim=3)))
        return sum(half.mean((2, 3)) for half in halves.chunk(2))  # type: ignore[return-value]


def test_a_layer_that_works_on_parts_of_the_images_is_refused(noise: Make) -> None:
    net = Windows(nn.Conv2d(3, 4, 1))
    with (
        pytest.raises(ModelError, match=r"'0' gives \(4, 4, 4, 2\) for 2 images: it works on parts"),
        tapped(net, ["0"]),
    ):
        net(noise(2, 3, 4, 4))


def test_each_module_has_its_mode_back(net: nn.Sequential) -> None:
    net.train()
    net[1].eval()
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == [True, True, False, False, False]
    with pytest.raises(KeyboardInterrupt), evaluating(net):
        raise KeyboardInterrupt
    assert [m.training for m in net.modules()] == [True, True, False, False, False]


def test_what_is_observed(net: nn.Sequential, footprint: Callable[[nn.Module], object]) -> None:
    x = torch.randn(5, 3)
    before = footprint(net)
    calls = observe(net, x)
    assert [call.name for call in calls] == ["0", "1.0", "1.1", "1", ""]
    at = {call.name: call for call in calls}
    assert at[""].start < at["0"].start < at["0"].end < at["1"].start < at["1.0"].start
    assert at["1.1"].end < at["1"].end < at[""].end
    assert torch.equal(at["1.0"].input, net[0](x))  # type: ignore[arg-type]
    assert torch.equal(at[""].output, net(x))  # type: ignore[arg-type]
    assert not at[""].output.requires_grad  # type: ignore[union-attr]
    assert observe(nn.Sequential(Twins()), x)[-1].output is None
    with pytest.raises(RuntimeError):
        observe(net, torch.randn(5, 99))
    assert footprint(net) == before


def test_passes_of_several_threads_have_their_own_outputs() -> None:
    model = build_model("resnet18-cifar:8-8-8-8@8", 4).train()
    layers, start = ("layer1", "layer3.0.bn1"), threading.Barrier(4)
    images = [torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(4)]

    def look(i: int) -> list[list[Tensor]]:
        start.wait(30)
        seen = []
        for _ in range(30):
            with torch.no_grad(), evaluating(model):
                logits, outputs = forward_with_layers(model, images[i], layers)
                call = next(call for call in observe(model, images[i]) if call.name == "layer1")
                work = private_copy(model)
                seen.append([logits, *outputs.values(), call.output, work(images[i])])
        return seen

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(look, range(4)))
    assert all(module.training for module in model.modules())
    assert hooks(model) == 0
    for i in range(4):
        with torch.no_grad(), evaluating(model):
            logits, outputs = forward_with_layers(model, images[i], layers)
        wanted = [logits, *outputs.values(), outputs["layer1"], logits]
        assert all(torch.equal(*pair) for seen in found[i] for pair in zip(seen, wanted, strict=True))


def test_a_copy_that_is_made_meanwhile_fills_nothing(net: nn.Sequential) -> None:
    with tapped(net, ["0"]) as outputs:
        private_copy(net)(torch.zeros(5, 3))
        assert outputs == {}
        net(torch.zeros(4, 3))
    assert outputs["0"].shape == (4, 4)


def test_modes_come_back_with_the_last_of_overlapping_blocks(net: nn.Sequential) -> None:
    net.train()
    net[1].eval()
    first, second = evaluating(net), evaluating(net)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not net.training
    second.__exit__(None, None, None)
    assert (net.training, net[0].training, net[1].training, net[1][0].training) == (True, True, False, False)

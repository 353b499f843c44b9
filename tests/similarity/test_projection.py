from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.tasks import Task
from xaibench.distillation.measure import measure_moments
from xaibench.errors import ConfigError, ModelError, UnknownNameError
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.similarity.projection import projected_accuracy, projected_logits
from xaibench.subspace.bases import BASES, Basis, make_basis

PLAIN = Preprocessing((0.0,), (1.0,))


def images_of(n: int = 7, side: int = 4) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(n) % 3, ("a", "b", "c"), tuple(map(str, range(n))))


def net_of(channels: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), pooled).eval()


def basis_of(channels: int = 5, k: int = 5, seed: int = 1) -> Basis:
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
    mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    return Basis(vectors[:, :k].contiguous(), mean, 1.0, 1.0, "random")


def test_the_logits_are_those_of_the_projection_written_out() -> None:
    net, images, basis = net_of(), images_of(), basis_of()
    found = projected_logits(net, images, PLAIN, "1", basis, [0, 2, 4, 5], batch_size=3)
    h = net[:2].double()(images.images.double() / 255).detach()
    for row, k in enumerate((0, 2, 4, 5)):
        expected = basis.mean[:, None, None].expand(h.shape).clone()
        for n in range(len(h)):
            for y in range(h.shape[2]):
                for x in range(h.shape[3]):
                    for j in range(k):
                        u = basis.vectors[:, j]
                        expected[n, :, y, x] += u * (u @ (h[n, :, y, x] - basis.mean))
        torch.testing.assert_close(found[row].double(), net[2].double()(expected).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BASES)
def test_all_directions_give_the_teachers_own_logits_and_none_those_of_the_mean(
    kind: str, tiny_pair: ModelPair, tiny_task: Task
) -> None:
    moments = measure_moments(tiny_pair, tiny_task.train)
    own = predict_logits(tiny_pair.teacher, tiny_task.test, tiny_pair.preprocessing)
    for layer, m in moments.items():
        basis = make_basis(m, kind, m.channels)
        given: Any = (tiny_pair.teacher, tiny_task.test, tiny_pair.preprocessing, layer, basis, [0, m.channels])
        nothing, everything = projected_logits(*given)
        torch.testing.assert_close(everything, own, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(nothing, nothing[:1].expand_as(nothing))
        labels = tiny_task.test.labels
        first, last = projected_accuracy(*given)
        assert first == (labels == nothing[0].argmax()).double().mean().item()
        assert last == pytest.approx((own.argmax(1) == labels).double().mean().item(), abs=1 / len(labels))


def test_directions_that_hold_the_features_are_enough() -> None:
    net, images, basis = net_of(), images_of(), basis_of()
    with torch.no_grad():  # the features vary along the first two directions alone
        net[0].weight.copy_((basis.vectors[:, :2] @ torch.randn(2, 9, dtype=torch.float64)).reshape(5, 1, 3, 3))
        net[0].bias.copy_(basis.mean)
    own = predict_logits(net, images, PLAIN)
    one, two, five = projected_logits(net, images, PLAIN, "0", basis, [1, 2, 5])
    torch.testing.assert_close(two, own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(five, own, atol=1e-5, rtol=1e-5)
    assert (one - own).abs().max() > 1e-3


def test_the_model_is_left_as_it_is_and_every_batch_is_told() -> None:
    net, told = net_of().train(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    accuracy = projected_accuracy(net, images_of(7), PLAIN, "1", basis_of(), (1, 2), batch_size=4, on_batch=told.append)
    assert accuracy.shape == (2,)
    assert told == [4, 4, 3, 3]
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": "7"}, UnknownNameError, "unknown layer of Sequential '7'"),
        ({"layer": "2"}, ModelError, r"layer '2' gives \(7, 3\), not maps \(N, 5, H, W\)"),
        ({"basis": basis_of(4, 4)}, ModelError, r"gives \(7, 5, 2, 2\), not maps \(N, 4, H, W\): make the basis"),
        ({"counts": [6]}, ConfigError, r"must lie in 0..5, those of the basis, got 6"),
        ({"counts": [-1]}, ConfigError, "got -1"),
        ({"counts": []}, ConfigError, "got none"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1"),
        ({"device": "gpu"}, ConfigError, "unknown device 'gpu'"),
    ],
)
def test_what_cannot_be_projected_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"layer": "1", "basis": basis_of(), "counts": [1], **changes}
    with pytest.raises(error, match=message):
        projected_accuracy(net_of(), images_of(), PLAIN, **given)


def test_a_layer_outside_the_forward_pass_is_refused() -> None:
    net = net_of()
    net.add_module("aside", nn.Identity())
    net.forward = lambda x: nn.Sequential.forward(net[:3], x)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="takes no part in the forward pass"):
        projected_logits(net, images_of(), PLAIN, "aside", basis_of(), [1])

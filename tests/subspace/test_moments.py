from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from xaibench.errors import CheckpointError, ConfigError, DataError, ModelError, UnknownNameError
from xaibench.subspace import LayerMoments, MomentAccumulator, collect_moments
from xaibench.subspace.moments import load_moments, save_moments

FIELDS = ("mean", "activation", "gradient", "cross")


def samples(n: int = 30, d: int = 4, seed: int = 0, offset: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64)
    c = torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5 * a + 0.3
    return a * torch.arange(1, d + 1) + offset, c


def streamed(a: Tensor, c: Tensor, cuts: list[int]) -> LayerMoments:
    sums = MomentAccumulator(a.shape[1])
    edges = [0, *sorted(cuts), len(a)]
    for low, high in zip(edges, edges[1:]):
        if high > low:
            sums.update(a[low:high], c[low:high])
    return sums.result()


def slow(h: Tensor, c: Tensor) -> dict[str, np.ndarray]:
    """The definition, one number at a time."""
    rows, grads = h.tolist(), c.tolist()
    n, d = len(rows), len(rows[0])
    mean = [sum(row[i] for row in rows) / n for i in range(d)]
    out = {"mean": np.array(mean)}
    for name in FIELDS[1:]:
        matrix = np.zeros((d, d))
        for i in range(d):
            for j in range(d):
                for row, grad in zip(rows, grads):
                    left = grad[i] if name == "gradient" else row[i] - mean[i]
                    right = row[j] - mean[j] if name == "activation" else grad[j]
                    matrix[i, j] += left * right / n
        out[name] = matrix
    return out


def assert_same(moments: LayerMoments, other: object, rtol: float = 1e-10) -> None:
    for name in FIELDS:
        want = other[name] if isinstance(other, dict) else getattr(other, name)
        have = getattr(moments, name)
        np.testing.assert_allclose(have, want, rtol=rtol, atol=rtol * float(have.abs().max()))


def test_moments_are_the_definition() -> None:
    moments = streamed(*samples(), [7, 8])
    assert moments.count == 30
    assert moments.channels == 4
    assert_same(moments, slow(*samples()))


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 29), max_size=6), seed=st.integers(0, 99))
def test_any_split_into_batches_gives_the_same(cuts: list[int], seed: int) -> None:
    a, c = samples(seed=seed)
    assert_same(streamed(a, c, cuts), streamed(a, c, []))


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(30)))
def test_the_order_of_samples_does_not_matter(order: list[int]) -> None:
    a, c = samples()
    assert_same(streamed(a[order], c[order], [11]), streamed(a, c, [11]))


def test_the_mean_moves_with_the_data_and_the_rest_stays() -> None:
    near, far = streamed(*samples(offset=0), [9]), streamed(*samples(offset=1e6), [9])
    assert torch.allclose(far.mean, near.mean + 1e6, rtol=1e-15)
    for name in FIELDS[1:]:
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), atol=1e-6)


def test_single_precision_survives_a_mean_far_above_the_spread() -> None:
    a, c = samples(n=3000)
    a = a + 3000
    single = streamed(a.float(), c.float(), list(range(100, 3000, 100)))
    np.testing.assert_allclose(single.activation, np.cov(a.T, bias=True), rtol=2e-3, atol=2e-3)
    assert single.activation.dtype == torch.float64


def test_single_precision_survives_many_rows_of_few_channels() -> None:
    a = torch.randn(2**17, 8, generator=torch.Generator().manual_seed(0)).relu()
    have = streamed(a, a, []).gradient
    want = a.double().T @ a.double() / len(a)
    assert (have - want).abs().max() < 2e-5 * want.max()


@pytest.mark.parametrize("bad", [torch.zeros(3, 5), torch.zeros(3), torch.zeros(2, 4)])
def test_wrong_shapes_are_refused(bad: Tensor) -> None:
    with pytest.raises(DataError, match=r"must both be \(M, 4\), got"):
        MomentAccumulator(4).update(bad, torch.zeros(3, 4))


def test_no_data_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="no images to collect moments from"):
        MomentAccumulator(4).result()
    a, c = samples()
    a[3, 1] = torch.nan
    with pytest.raises(DataError, match="the mean moments are not finite"):
        streamed(a, c, [])
    a, c = samples()
    c[0, 0] = torch.inf
    with pytest.raises(DataError, match="the gradient moments are not finite"):
        streamed(a, c, [])


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5))
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slow_layer(net: nn.Sequential, x: Tensor, layer: int) -> dict[str, np.ndarray]:
    """One image and one location at a time."""
    rows, gradients = [], []
    for image in x:
        h = net[: layer + 1](image[None]).detach().requires_grad_()
        z = net[layer + 1 :](h)[0]
        first, second = z.sort(descending=True).values[:2]
        (gradient,) = torch.autograd.grad(first - second, h)
        for i in range(h.shape[2]):
            for j in range(h.shape[3]):
                rows.append(h[0, :, i, j].detach())
                gradients.append(gradient[0, :, i, j])
    return slow(torch.stack(rows), torch.stack(gradients))


@pytest.mark.parametrize("batch", [1, 4, 6])
def test_one_pass_gives_every_layers_moments(net: nn.Sequential, x: Tensor, batch: int) -> None:
    moments = collect_moments(net, ("3", "1"), x.split(batch))
    assert list(moments) == ["3", "1"]
    assert moments["1"].count == 6 * 36
    for name in moments:
        assert_same(moments[name], slow_layer(net, x, int(name)))


def test_tokens_count_as_locations_and_their_prefix_does_not() -> None:
    """Against a twin that runs the blocks by hand, so that the gradient is taken where the tokens themselves are."""
    torch.manual_seed(0)
    vit = VisionTransformer(16, 4, 3, 2, 8, 16, num_classes=4).double().eval()
    nn.init.normal_(vit.heads.head.weight)  # type: ignore[arg-type,union-attr]
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    blocks = vit.encoder.layers
    moments = collect_moments(vit, ("encoder.layers.encoder_layer_1",), images.split(2))
    tokens = vit.conv_proj(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([vit.class_token.expand(5, -1, -1), tokens], dim=1) + vit.encoder.pos_embedding
    h = blocks[1](blocks[0](tokens)).detach().requires_grad_()
    top = vit.heads(vit.encoder.ln(blocks[2](h))[:, 0]).sort(dim=1, descending=True).values
    (c,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), h)
    assert c[:, 1:].abs().min() > 0
    (have,) = moments.values()
    assert have.count == 5 * 16
    assert_same(have, slow(h.detach()[:, 1:].flatten(0, 1), c[:, 1:].flatten(0, 1)))


def test_the_teacher_is_left_as_it_was(net: nn.Sequential, x: Tensor) -> None:
    collect_moments(net, ("1",), [x])
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())
    with torch.no_grad():  # gradients are taken also where the caller switched them off
        assert collect_moments(net, ("1",), [x])["1"].gradient.trace() > 0
    net.requires_grad_(False)
    assert collect_moments(net, ("1",), [x])["1"].gradient.trace() > 0


def test_twenty_locations_are_drawn_from_the_seed(net: nn.Sequential, x: Tensor) -> None:
    def draw(seed: int, locations: int = 20) -> LayerMoments:
        return collect_moments(net, ("1",), [x[:4], x[4:]], locations=locations, seed=seed)["1"]

    assert draw(1).count == 6 * 20
    assert torch.equal(draw(1).activation, draw(1).activation)
    assert not torch.equal(draw(1).activation, draw(2).activation)
    exact = collect_moments(net, ("1",), [x])["1"]
    for name in FIELDS:
        have, want = getattr(draw(3, 20000), name), getattr(exact, name)
        assert (have - want).abs().max() < 0.05 * want.abs().max()


def test_what_cannot_be_measured_is_refused(net: nn.Sequential, x: Tensor) -> None:
    with pytest.raises(ModelError, match=r"training mode: call teacher\.eval\(\)"):
        collect_moments(net.train(), ("1",), [x])
    net.eval()
    with pytest.raises(DataError, match="no images"):
        collect_moments(net, ("1",), [])
    with pytest.raises(ConfigError, match="locations must be at least 1, got 0"):
        collect_moments(net, ("1",), [x], locations=0)
    with pytest.raises(ModelError, match=r"layer '4' gives \(6, 36\), not maps"):
        collect_moments(net, ("4",), [x])
    with pytest.raises(UnknownNameError, match="unknown layer of Sequential 'layer1'"):
        collect_moments(net, ("layer1",), [x])
    with pytest.raises(DataError, match="not finite: the images or the teacher's weights hold NaN"):
        collect_moments(net, ("1",), [x * torch.nan])


def test_saved_moments_come_back(tmp_path: Path) -> None:
    moments = {"layer1": streamed(*samples(), []), "blocks.0/x": streamed(*samples(d=3), [])}
    loaded = load_moments(save_moments(tmp_path / "m.safetensors", moments))
    assert set(loaded) == set(moments)
    for name, want in moments.items():
        assert loaded[name].count == want.count
        assert all(torch.equal(getattr(loaded[name], field), getattr(want, field)) for field in FIELDS)


def test_damaged_moments_are_refused(tmp_path: Path) -> None:
    path = save_moments(tmp_path / "m.safetensors", {"a": streamed(*samples(), [])})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"cannot read moments from .*: delete it to measure them again"):
        load_moments(path)
    with pytest.raises(CheckpointError, match="cannot read moments"):
        load_moments(tmp_path / "none.safetensors")


def test_images_that_come_alone_count_as_in_a_batch() -> None:
    """Behind a flattened and transposed map torch's gradient of one image through batch normalisation is wrong."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(16))
            self.head = nn.Linear(16, 4)
            nn.init.uniform_(self.body[2].running_var, 0.5, 2)  # type: ignore[arg-type]

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(self.stem(images)).flatten(2).transpose(1, 2).mean(1))
            return logits

    network = Tokens().eval()
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    together = collect_moments(network, ("stem",), [images])["stem"]
    alone = collect_moments(network, ("stem",), list(images.split(1)))["stem"]
    for name in FIELDS:
        torch.testing.assert_close(getattr(alone, name), getattr(together, name), rtol=1e-4, atol=1e-9)

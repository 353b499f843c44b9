from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.batch_size import MOST_POINTS, choose_points, observed_forward
from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp.explainer import LRP
from xaibench.errors import ConfigError


class Counted(nn.Module):
    """Three tensors of 4 x 6 x 6 floats, one of 4, and views that cost nothing."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x * 2).relu() + 1
        return y.flatten(2).mean(dim=2)[:, :4]


def test_the_bytes_are_those_of_the_tensors_that_are_made() -> None:
    x = torch.randn(5, 4, 6, 6)
    logits, size = observed_forward(Counted(), x)
    assert torch.equal(logits, Counted()(x))
    assert size == 4 * (3 * 4 * 6 * 6 + 4)


def test_a_second_layer_counts_twice_and_the_batch_does_not() -> None:
    one, two = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    sizes = [observed_forward(net, torch.randn(n, 3, 8, 8))[1] for net in (one, two) for n in (1, 4)]
    assert sizes == [768, 768, 1536, 1536]


def test_the_attention_of_torch_is_seen_from_inside() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    with torch.no_grad():
        _, size = observed_forward(layer, torch.randn(2, 9, 16))
    assert size > 4 * 9 * (3 * 16 + 16 + 32 + 16)  # queries, keys and values; attention; the hidden layer; the output


def test_points_fit_the_budget_and_stay_within_their_bounds() -> None:
    assert choose_points(2**20, 64 * 2**20) == 32
    assert choose_points(2**20, 128 * 2**20) == 64
    assert choose_points(2**30, 1) == 1
    assert choose_points(1) == choose_points(0) == MOST_POINTS
    with pytest.raises(ConfigError, match="memory must be at least 1 byte, got 0: give the bytes"):
        choose_points(1, 0)


@pytest.mark.parametrize(("options", "wanted"), [({}, (5, 72)), ({"batch_size": 2}, (2, 2)), ({"memory": 1}, (1, 1))])
def test_explain_hands_over_batches_within_the_budget(
    options, wanted, network: nn.Module, x, target, preprocessing, monkeypatch
) -> None:
    seen, original = [], LRP.attribute

    def attribute(self, model, x, target, preprocessing, room):
        seen.append((len(x), room.points))
        return original(self, model, x, target, preprocessing, room)

    monkeypatch.setattr(LRP, "attribute", attribute)
    whole = explain_model(network, x, target, LRP(), preprocessing, check=False, **options)
    assert seen[0][0] == wanted[0]
    assert seen[0][1] >= wanted[1]
    assert sum(count for count, _ in seen) == len(x)
    assert all(points == seen[0][1] for _, points in seen)
    reference = explain_model(network, x, target, LRP(), preprocessing, check=False, batch_size=5)
    torch.testing.assert_close(whole.relevance, reference.relevance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("memory", "wanted"), [(None, 4), (1, 1)])
def test_no_more_images_are_checked_than_there_is_room_for(
    memory, wanted, network, x, target, preprocessing, monkeypatch
):
    seen, original = [], LRP.validate
    monkeypatch.setattr(
        LRP, "validate", lambda self, m, few, *rest: seen.append(len(few)) or original(self, m, few, *rest)
    )
    explain_model(network, x, target, LRP(), preprocessing, memory=memory)
    assert seen == [wanted]


def test_attention_weights_count_where_relevance_passes_them(preprocessing) -> None:
    class Attentive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)

    x = torch.rand(1, 3, 16, 16)
    _, plain = observed_forward(Attentive(), x)
    weights = 4 * 256 * 256
    written = [
        LRP("epsilon-plus", attention=attention).written(Attentive(), x, preprocessing, plain)
        for attention in ("constant", "attnlrp")
    ]
    assert written[0] == plain
    assert written[1] > plain + 2 * weights


def test_a_batch_size_above_the_usual_is_taken_at_its_word(network, x, target, preprocessing) -> None:
    seen: list[int] = []
    many = torch.arange(5).repeat(8)
    explain_model(network, x[many], target.take(many), LRP(), preprocessing, batch_size=40, on_batch=seen.append)
    assert seen == [40]
    explain_model(network, x[many], target.take(many), LRP(), preprocessing, on_batch=seen.append)
    assert seen == [40, 32, 8]


def test_bad_memory(network: nn.Module, x, target, preprocessing) -> None:
    with pytest.raises(ConfigError, match="memory must be at least 1, got 0"):
        explain_model(network, x, target, LRP(), preprocessing, memory=0)

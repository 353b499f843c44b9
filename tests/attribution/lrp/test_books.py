"""Relevance and what is absorbed on its way add up to the explained output, image by image."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.lrp.test_gate import SUPPORTED, question, unsettled
from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp import rules
from xaibench.attribution.lrp.books import KINDS, Books, in_words
from xaibench.attribution.lrp.composites import COMPOSITES
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError

ABSORBED = [f"absorbed_{kind}" for kind in KINDS]


def images(preprocessing: Preprocessing, count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return preprocessing(torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8))


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_books_of_every_image_balance(name: str, preprocessing: Preprocessing) -> None:
    build, size = SUPPORTED[name]
    torch.manual_seed(0)
    model, x = unsettled(build()), images(preprocessing, 3, size)
    target = question(model, x)
    with torch.no_grad():
        logits = model(x)
        explained = target.select(logits).double()
    rounding = 1e-5 * float(logits.abs().max())  # of the two logits whose difference is explained
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        wanted = target.select(exact(x.double()))
    measured = LRP().attribute(exact, x.double(), target, preprocessing, Room(8)).measured
    torch.testing.assert_close(measured["explained"], wanted, rtol=1e-9, atol=1e-9)
    for composite in COMPOSITES:
        maps = LRP(composite).attribute(model, x, target, preprocessing, Room(8))
        found = maps.relevance.double().sum((1, 2, 3)) + sum(maps.measured[line] for line in ABSORBED)
        torch.testing.assert_close(maps.measured["explained"], explained, rtol=0, atol=rounding)
        size = maps.relevance.double().abs().sum((1, 2, 3)) + sum(maps.measured[line].abs() for line in ABSORBED)
        assert bool(((found - explained).abs() <= 1e-4 * explained.abs() + 1e-5 * size + rounding).all())
        assert float(maps.measured["imbalance"].max()) < 5e-6, composite


class Residual(nn.Module):
    """All that absorbs: folded and unfolded norms, biases, an added parameter, a joined buffer; one skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fold = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.stays = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.shift = nn.Parameter(torch.randn(4, 1, 1))
        self.register_buffer("token", torch.randn(1, 2))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.fold(self.first(x)))
        h = self.stays(F.relu(self.second(h)) + h) + self.shift
        return self.head(torch.cat([h.mean((2, 3)), self.token.expand(len(x), -1)], dim=1))


class Twin:
    """LRP of one image through `Residual` by loops over single outputs, with each constant as an input that is 1.

    A layer is a matrix W (outputs, inputs) and a vector b. An output shares its relevance out in proportion to the
    contributions that `rule` makes of c = (w x, b), the last of which is entered as absorbed.
    """

    def __init__(self, composite: str, low: Tensor, high: Tensor) -> None:
        self.composite, self.low, self.high = composite, low, high
        self.absorbed = dict.fromkeys(KINDS, 0.0)

    def back(self, rule: str, kind: str, w: Tensor, b: Tensor, x: Tensor, upper: Tensor) -> Tensor:
        lower = torch.zeros_like(x)
        extended = torch.cat([x, x.new_ones(1)])
        for row, shift, relevance in zip(w, b, upper):
            c = torch.cat([row, shift[None]]) * extended
            for part, stabilizer, factor in self.contributions(rule, c, row):
                total = part.sum()
                total = total + (stabilizer if total >= 0 else -stabilizer)
                lower += factor * part[:-1] / total * relevance
                self.absorbed[kind] += float(factor * part[-1] / total * relevance)
                lost = "missing_sign" if rule in ("z+", "alpha-beta") else "stabiliser"
                self.absorbed[lost] += float(factor * (total - part.sum()) / total * relevance)
        return lower

    def contributions(self, rule: str, c: Tensor, row: Tensor) -> list[tuple[Tensor, float, float]]:
        positive, negative = c.clamp(min=0), c.clamp(max=0)
        if rule == "epsilon":
            return [(c, 1e-6, 1.0)]
        if rule == "gamma":  # with the favoured sign that of the output
            return [(c + (positive if c.sum() > 0 else negative), 1e-6, 1.0)]
        if rule == "z+":
            return [(positive, 1e-6, 1.0)]
        if rule == "alpha-beta":
            return [(positive, 1e-6, 2.0), (negative, 1e-6, -1.0)]
        if rule == "flat":
            return [(torch.cat([self.reach(row), c.new_zeros(1)]), 1e-6, 1.0)]
        boxed = c[:-1] - self.low * row.clamp(min=0) - self.high * row.clamp(max=0)
        return [(torch.cat([boxed, c.new_zeros(1)]), 1e-6, 1.0)]

    @staticmethod
    def reach(row: Tensor) -> Tensor:
        return (row != 0).to(row)

    def explain(self, model: Residual, x: Tensor, target: Target) -> Tensor:
        c, h, w = x.shape
        first, second = (dense(conv, (channels, h, w)) for conv, channels in ((model.first, c), (model.second, 4)))
        scale = model.fold.weight / (model.fold.running_var + model.fold.eps).sqrt()
        shift = model.fold.bias - scale * model.fold.running_mean
        scale, shift = scale.repeat_interleave(h * w), shift.repeat_interleave(h * w)
        first = scale[:, None] * first[0], scale * first[1] + shift
        x0 = x.flatten()
        x1 = (first[0] @ x0 + first[1]).relu()
        z2 = second[0] @ x1 + second[1]
        x2 = z2.relu() + x1
        slope = (model.stays.weight / (model.stays.running_var + model.stays.eps).sqrt()).repeat_interleave(h * w)
        moved = model.stays.bias.repeat_interleave(h * w) - slope * model.stays.running_mean.repeat_interleave(h * w)
        x3 = slope * x2 + moved
        added = model.shift.flatten().repeat_interleave(h * w)
        pool = torch.kron(torch.eye(4).to(x), x.new_full((1, h * w), 1 / (h * w)))
        x4 = torch.cat([pool @ (x3 + added), model.token[0]])
        z = model.head.weight @ x4 + model.head.bias
        y, r = int(target.label), int(target.contrast)
        start = torch.zeros_like(z)
        start[y], start[r] = z[y], -z[r]

        def zero(count: int) -> Tensor:
            return x.new_zeros(count)

        upper = self.back("epsilon", "linear", model.head.weight, model.head.bias, x4, start)
        self.absorbed["constant"] += float(upper[4:].sum())
        upper = self.back("epsilon", "constant", pool, zero(4), x3 + added, upper[:4])
        size = len(x3)
        upper = self.back("epsilon", "embedding", torch.eye(size).to(x), added, x3, upper)
        upper = self.back("epsilon", "normalisation", torch.diag(slope), moved, x2, upper)
        both = self.back(
            "epsilon", "constant", torch.eye(size).to(x).repeat(1, 2), zero(size), torch.cat([z2.relu(), x1]), upper
        )
        names = {
            "epsilon-gamma-box": ("gamma", "box"),
            "epsilon-plus": ("z+", "z+"),
            "epsilon-plus-flat": ("z+", "flat"),
        }
        inner, outer = names.get(self.composite, ("alpha-beta", "alpha-beta"))
        upper = both[size:] + self.back(inner, "convolution", *second, x1, both[:size])
        return self.back(outer, "convolution", *first, x0, upper).view_as(x)


def dense(conv: nn.Conv2d, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """(matrix, bias) of a convolution of one image (C, H, W)."""
    size = shape[0] * shape[1] * shape[2]
    basis = torch.eye(size, dtype=torch.float64).view(size, *shape)
    weight = F.conv2d(basis, conv.weight, None, conv.stride, conv.padding).flatten(1).T
    return weight, conv.bias.repeat_interleave(weight.shape[0] // len(conv.bias))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_maps_and_books_equal_those_of_a_loop_over_single_outputs(composite: str, preprocessing: Preprocessing) -> None:
    torch.manual_seed(1)
    model = unsettled(Residual()).double().requires_grad_(False)
    x = images(preprocessing, 2, 5).double()
    target = question(model, x)
    maps = LRP(composite).attribute(model, x, target, preprocessing, Room(8))
    low, high = (bound.double().expand(1, 3, 5, 5).flatten() for bound in preprocessing.bounds())
    for i in range(2):
        twin = Twin(composite, low, high)
        wanted = twin.explain(model, x[i], target.take([i]))
        torch.testing.assert_close(maps.relevance[i], wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))
        for kind, amount in twin.absorbed.items():
            assert float(maps.measured[f"absorbed_{kind}"][i]) == pytest.approx(amount, rel=1e-9, abs=1e-10), kind
    assert float(maps.measured["imbalance"].max()) < 1e-12
    named = {kind for kind in KINDS if bool(maps.measured[f"absorbed_{kind}"].abs().max() > 1e-9)}
    assert {"convolution", "linear", "normalisation", "embedding", "constant"} <= named


@pytest.mark.parametrize("name", ["resnet18", "timm vit", "swin", "convnext", "transformer layer", "squeezenet"])
def test_in_float64_the_books_balance_to_1e_10(name: str, preprocessing: Preprocessing) -> None:
    build, size = SUPPORTED[name]
    torch.manual_seed(0)
    model, x = unsettled(build()).double(), images(preprocessing, 2, size).double()
    measured = LRP().attribute(model, x, question(model, x), preprocessing, Room(8)).measured
    assert float(measured["imbalance"].max()) < 1e-10


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_a_rule_that_loses_or_makes_relevance_is_caught(share: float, network, x, target, preprocessing, monkeypatch):
    rule = rules.Gamma.__call__

    def broken(self, *args: object) -> rules.Shares:
        shares = rule(self, *args)
        return rules.Shares(share * shares.input, shares.absorbed)

    monkeypatch.setattr(rules.Gamma, "__call__", broken)
    with pytest.raises(ExplanationError, match=r"LRP conservation error is 0\.\d+, at most 1e-05 passes"):
        explain_model(network, x, target, LRP(), preprocessing)
    broken_map = explain_model(network, x, target, LRP(), preprocessing, check=False)
    assert [c.passed for c in broken_map.validity.checks if c.name == "imbalance of LRP's books"] == [False]


def test_a_wrong_amount_of_a_bias_is_caught(network, x, target, preprocessing, monkeypatch) -> None:
    right = rules.Layer.bias_share
    monkeypatch.setattr(rules.Layer, "bias_share", lambda *args: 1.1 * right(*args))
    with pytest.raises(ExplanationError, match="LRP conservation error is"):
        explain_model(network, x, target, LRP(), preprocessing)


def test_an_explanation_holds_the_books(network, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    attribution = explain_model(network, x, target, LRP(), preprocessing, batch_size=2)
    measured = attribution.measured
    assert set(measured) == {"explained", *ABSORBED, "imbalance"}
    assert all(value.shape == (5,) and value.dtype == torch.float64 for value in measured.values())
    assert attribution.in_words().startswith("in the median the map accounts for ")
    assert "imbalance of LRP's books" in [check.name for check in attribution.validity.checks]
    whole = LRP().attribute(network, x, target, preprocessing, Room(8)).measured
    for line in ("explained", *ABSORBED):
        torch.testing.assert_close(measured[line], whole[line], rtol=1e-4, atol=1e-5)


def test_zennit_alone_tells_only_what_is_explained(network, x: Tensor, target: Target, preprocessing) -> None:
    attribution = explain_model(network, x, target, LRP(canonizer="resnet"), preprocessing)
    assert list(attribution.measured) == ["explained"]
    assert attribution.in_words() == ""
    with torch.no_grad():
        wanted = target.select(network(x)).double()
    torch.testing.assert_close(attribution.measured["explained"], wanted, rtol=1e-3, atol=1e-4)


class LengthFirst(nn.Module):
    """A transformer layer that has the tokens, and not the images, in its first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layer, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.TransformerEncoderLayer(8, 2, 16),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0))


class ImagesFirst(LengthFirst):
    def __init__(self) -> None:
        super().__init__()
        self.layer.self_attn.batch_first = True

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_images_may_lie_in_another_dimension(count: int, preprocessing: Preprocessing) -> None:
    """16 tokens: with 2 images their number is a multiple of the images', with 3 it is not."""
    torch.manual_seed(0)
    model, x = unsettled(LengthFirst()), images(preprocessing, count, 16)
    target = question(model, x)
    twin = ImagesFirst().eval()
    twin.load_state_dict(model.state_dict())
    got, wanted = (explain_model(m, x, target, LRP(), preprocessing).measured for m in (model, twin))
    for line in ("explained", *ABSORBED):
        torch.testing.assert_close(got[line], wanted[line], rtol=1e-4, atol=1e-5)


def test_words_say_which_part_is_whose() -> None:
    books = {line: torch.zeros(3) for line in ABSORBED} | {"explained": torch.tensor([2.0, -4.0, 5.0])}
    books["absorbed_convolution"], books["absorbed_linear"] = (
        torch.tensor([1.0, -3.0, 5.0]),
        torch.tensor([0.5, 0.0, 0.0]),
    )
    assert in_words(books) == "in the median the map accounts for 25% of z_y - z_r, biases for 75%"
    books["absorbed_constant"] = torch.tensor([0.51, -1.01, 0.01])
    assert in_words(books) == "in the median the map accounts for 0% of z_y - z_r, biases for 75%, constants for 25%"
    books["absorbed_linear"] = torch.tensor([3.0, -6.0, 9.0])
    assert "map accounts for −150% of z_y - z_r, biases for 225%, constants for 25%" in in_words(books)


def test_books_of_one_image_take_all_rows() -> None:
    books = Books(1)
    books.enter({"linear": torch.tensor([1.0, 2.0, 4.0])})
    assert float(books.absorbed["linear"]) == 7.0
    several = Books(2)
    several.enter({"linear": torch.tensor([1.0, 2.0, 4.0, 8.0]), "constant": torch.ones(3)})
    assert several.absorbed["linear"].tolist() == [3.0, 12.0]
    assert bool(several.absorbed["constant"].isnan().all())

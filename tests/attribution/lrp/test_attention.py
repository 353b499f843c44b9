"""Relevance through attention: AttnLRP against the paper's formulas, against its authors' code, and its books."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from tests.attribution.lrp.test_gate import SUPPORTED, question, unsettled
from tests.attribution.lrp.test_mode import Calls, numbers
from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.explainers import parse_explainer
from xaibench.attribution.lrp.books import KINDS, Books
from xaibench.attribution.lrp.composites import Rules
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.lrp.missing_rules import Trail
from xaibench.attribution.lrp.mode import RelevanceMode
from xaibench.attribution.lrp.rules import Epsilon, Gamma
from xaibench.attribution.result import Attribution
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError

EPS = 1e-12
RULES = Rules(Epsilon(EPS), Epsilon(EPS), attention="attnlrp", stabilizer=EPS)


class Block(nn.Module):
    """A transformer block of width 8 with two heads; `attend` computes softmax(q k'/2) v, q, k, v (N, 2, L, 4)."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.fc1, self.fc2 = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TorchBlock(Block):
    """The same, by nn.MultiheadAttention."""

    weights = False  # whether it is asked for them, too

    def forward(self, x: Tensor) -> Tensor:
        attention = nn.MultiheadAttention(8, 2, batch_first=True).double().eval().requires_grad_(False)
        attention.in_proj_weight, attention.in_proj_bias = self.qkv.weight, self.qkv.bias
        attention.out_proj = self.proj
        h = self.norm1(x)
        x = x + attention(h, h, h, need_weights=self.weights)[0]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class AskingBlock(TorchBlock):
    weights = True


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout((q * 0.5 @ k.transpose(-2, -1)).softmax(dim=-1), training=False) @ v


BLOCKS: dict[str, Callable[[], Block]] = {
    "explicit": lambda: Block(explicit),
    "softmax in its own dtype": lambda: Block(
        lambda q, k, v: F.softmax(q @ k.mT / 2, dim=-1, dtype=torch.float64) @ v
    ),
    "torch's with its weights": lambda: AskingBlock(explicit),
    "functional softmax": lambda: Block(lambda q, k, v: torch.bmm(
        F.softmax(torch.matmul(q, k.mT) / 2, dim=3).flatten(0, 1), v.flatten(0, 1)).unflatten(0, (-1, 2))),
    "fused": lambda: Block(F.scaled_dot_product_attention),
    "multi-head": lambda: TorchBlock(explicit),
}  # fmt: skip


def loaded(name: str, values: dict[str, Tensor] | None = None) -> Block:
    torch.manual_seed(0)
    block = BLOCKS[name]().double().eval().requires_grad_(False)
    if values is None:
        values = {key: numbers(*value.shape, seed=i) / 2 for i, (key, value) in enumerate(block.state_dict().items())}
    block.load_state_dict(values)
    return block


def relevance(block: nn.Module, x: Tensor, upper: Tensor, rules: Rules = RULES) -> tuple[Tensor, dict[str, Tensor]]:
    books, x = Books(len(x)), x.clone().requires_grad_()
    model = Calls(lambda x, block: block(x), block).eval()
    with RelevanceMode(rules, books).installed(model) as modified:
        return torch.autograd.grad(modified(x), x, grad_outputs=upper)[0], books.absorbed


class Twin:
    """AttnLRP of one image (L, 8) through a `Block`, from the paper's formulas, one output at a time."""

    def __init__(self, block: Block) -> None:
        self.block, self.absorbed = block, dict.fromkeys(KINDS, 0.0)

    def over(self, relevance: Tensor, z: Tensor) -> Tensor:
        """R / (z + eps sign(z)) of single numbers; the stabiliser's part is entered."""
        added = EPS if z >= 0 else -EPS
        self.absorbed["stabiliser"] += float(relevance * added / (z + added))
        return relevance / (z + added)

    def affine(self, kind: str, w: Tensor, b: Tensor, x: Tensor, upper: Tensor) -> Tensor:
        """Epsilon rule (eq. 8) of x W' + b, tokens x (L, d)."""
        lower = torch.zeros_like(x)
        for token in range(len(x)):
            for j in range(len(w)):
                share = self.over(upper[token, j], w[j] @ x[token] + b[j])
                lower[token] += w[j] * x[token] * share
                self.absorbed[kind] += float(b[j] * share)
        return lower

    def norm(self, norm: nn.LayerNorm, x: Tensor, upper: Tensor) -> Tensor:
        """Identity for 1/sigma (proposition 3.4) and gain, epsilon rule for the centring and the shift."""
        lower, d = torch.zeros_like(x), x.shape[1]
        for token in range(len(x)):
            sigma = (x[token].var(correction=0) + norm.eps).sqrt()
            w = norm.weight[:, None] * (torch.eye(d).to(x) - 1 / d) / sigma
            lower[token] = self.affine("normalisation", w, norm.bias, x[token : token + 1], upper[token : token + 1])[0]
        return lower

    def product(self, a: Tensor, b: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform and epsilon rule (proposition 3.3): R_a_ij = sum_p a_ij b_jp R_ip / 2 o_ip, R_b alike."""
        r_a, r_b = torch.zeros_like(a), torch.zeros_like(b)
        for i in range(a.shape[0]):
            for p in range(b.shape[1]):
                share = self.over(upper[i, p], a[i] @ b[:, p])
                r_a[i] += a[i] * b[:, p] * share / 2
                r_b[:, p] += a[i] * b[:, p] * share / 2
        return r_a, r_b

    def softmax(self, x: Tensor, upper: Tensor) -> Tensor:
        """Proposition 3.1, from the Jacobian: R_i = sum_j x_i (ds_j/dx_i) R_j / s_j and a rest without an input."""
        lower = torch.zeros_like(x)
        for row in range(len(x)):
            s = x[row].softmax(0)
            for j in range(len(s)):
                slope = s[j] * (torch.eye(len(s)).to(x)[j] - s)
                lower[row] += x[row] * slope * upper[row, j] / s[j]
                self.absorbed["softmax"] += float((s[j] - slope @ x[row]) * upper[row, j] / s[j])
        return lower

    def added(self, a: Tensor, b: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.stack([self.over(r, z) for r, z in zip(upper.flatten(), (a + b).flatten())]).view_as(a)
        return a * share, b * share

    def explain(self, x: Tensor, upper: Tensor) -> Tensor:
        block = self.block
        n1 = block.norm1(x)
        q, k, v = block.qkv(n1).split(8, dim=1)
        heads = [slice(0, 4), slice(4, 8)]
        scores = [q[:, h] @ k[:, h].T / 2 for h in heads]
        mixed = torch.cat([s.softmax(1) @ v[:, h] for s, h in zip(scores, heads)], dim=1)
        attended = block.proj(mixed)
        h1 = x + attended
        n2 = block.norm2(h1)
        hidden = F.gelu(block.fc1(n2))
        skip, upper = self.added(h1, block.fc2(hidden), upper)
        upper = self.affine("linear", block.fc2.weight, block.fc2.bias, hidden, upper)
        upper = self.affine("linear", block.fc1.weight, block.fc1.bias, n2, upper)
        skip, upper = self.added(x, attended, skip + self.norm(block.norm2, h1, upper))
        upper = self.affine("linear", block.proj.weight, block.proj.bias, mixed, upper)
        r_q, r_k, r_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for s, h in zip(scores, heads):
            r_weights, r_v[:, h] = self.product(s.softmax(1), v[:, h], upper[:, h])
            r_q[:, h], transposed = self.product(q[:, h], k[:, h].T, self.softmax(s, r_weights))
            r_k[:, h] = transposed.T
        upper = self.affine("linear", block.qkv.weight, block.qkv.bias, n1, torch.cat([r_q, r_k, r_v], dim=1))
        return skip + self.norm(block.norm1, x, upper)


@pytest.mark.parametrize("name", BLOCKS)
def test_attnlrp_equals_the_papers_formulas(name: str) -> None:
    block, x, upper = loaded(name), numbers(2, 4, 8, seed=50), numbers(2, 4, 8, seed=51)
    got, absorbed = relevance(block, x, upper)
    for i in range(2):
        twin = Twin(block)
        wanted = twin.explain(x[i], upper[i])
        torch.testing.assert_close(got[i], wanted, rtol=0, atol=1e-10 * float(wanted.abs().max()))
        for kind, amount in twin.absorbed.items():
            assert float(absorbed[kind][i]) == pytest.approx(amount, rel=1e-9, abs=1e-9), kind
        assert abs(twin.absorbed["softmax"]) > 1e-3
    found = got.sum((1, 2)) + sum(absorbed.values())
    torch.testing.assert_close(found, upper.sum((1, 2)), rtol=1e-10, atol=1e-10 * float(got.abs().sum()))


@pytest.mark.parametrize("name", BLOCKS)
def test_attnlrp_equals_its_authors_code(name: str, golden: Path) -> None:
    """attnlrp.npz: a block of random weights by the explicit functions of lxt 2.1, float64, stabilisers 1e-12."""
    values = {key: torch.from_numpy(value) for key, value in np.load(golden / "attnlrp.npz").items()}
    x, upper, output, wanted = (values.pop(key) for key in ("x", "upper", "output", "relevance"))
    block = loaded(name, {".".join(key.rsplit("_", 1)): value for key, value in values.items()})
    torch.testing.assert_close(block(x), output, rtol=1e-10, atol=1e-10)
    got = relevance(block, x, upper)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9 * float(wanted.abs().max()))


def test_constant_attention_gives_another_map() -> None:
    block, x, upper = loaded("explicit"), numbers(2, 4, 8, seed=50), numbers(2, 4, 8, seed=51)
    constant, absorbed = relevance(block, x, upper, Rules(Epsilon(EPS), Epsilon(EPS), stabilizer=EPS))
    attnlrp = relevance(block, x, upper)[0]
    assert float((constant - attnlrp).norm() / constant.norm()) > 0.01
    assert not bool(absorbed["softmax"].any())


@pytest.mark.parametrize("name", ["vit", "timm vit", "swin", "transformer layer", "convnext"])
@pytest.mark.parametrize("options", [{"attention": "attnlrp"}, {"attention": "attnlrp", "linear_gamma": 0.25}])
def test_transformers_are_valid_with_attnlrp(name: str, options: dict, preprocessing: Preprocessing) -> None:
    build, size = SUPPORTED[name]
    torch.manual_seed(0)
    model = unsettled(build())
    x = preprocessing(torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8))
    attribution = explain_model(model, x, question(model, x), LRP(**options), preprocessing)
    assert float(attribution.measured["imbalance"].max()) < 1e-5
    assert bool(attribution.measured["absorbed_softmax"].any()) == (name != "convnext")


@pytest.mark.parametrize("attention", ["constant", "attnlrp"])
def test_the_share_of_embeddings_and_class_token_is_told(attention: str, preprocessing: Preprocessing) -> None:
    """Against the relevance of the first block's input, shared out in proportion to what was added up there."""
    torch.manual_seed(0)
    model = unsettled(tv.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4)).double().requires_grad_(False)
    x = preprocessing(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).double()
    target, explainer = question(model, x), LRP(attention=attention)
    measured = explainer.attribute(model, x, target, preprocessing, Room(8)).measured
    tokens: list[Tensor] = []
    with explainer.modified(model, preprocessing) as copy_:
        copy_.encoder.dropout.register_forward_hook(lambda *call: tokens.append(call[-1]))
        logits = copy_(x.clone().requires_grad_())
        start = F.one_hot(target.label, 4) - F.one_hot(target.contrast, 4)
        (upper,) = torch.autograd.grad(logits, tokens[-1], grad_outputs=logits.detach() * start)
    share = upper / tokens[-1].detach()
    wanted = (share * model.encoder.pos_embedding).sum((1, 2)) + (share[:, :1] * model.class_token).sum((1, 2))
    torch.testing.assert_close(measured["absorbed_embedding"], wanted, rtol=1e-4, atol=1e-6)
    assert bool((wanted.abs() > 1e-3).all())


def test_linear_gamma_is_for_layers_of_tokens() -> None:
    mlp = nn.Sequential(nn.Linear(6, 5), nn.ReLU()).double().requires_grad_(False)
    x, upper = numbers(2, 3, 6), numbers(2, 3, 5, seed=1)
    rules = Rules(Epsilon(EPS), Epsilon(EPS), tokens=Gamma(0.5, EPS), stabilizer=EPS)
    gamma = Rules(Epsilon(EPS), Gamma(0.5, EPS), stabilizer=EPS)
    plain = Rules(Epsilon(EPS), Epsilon(EPS), stabilizer=EPS)
    assert torch.equal(relevance(mlp, x, upper, rules)[0], relevance(mlp, x, upper, gamma)[0])
    assert not torch.allclose(relevance(mlp, x, upper, rules)[0], relevance(mlp, x, upper, plain)[0])
    one, upper = x[:, 0], upper[:, 0]
    assert torch.equal(relevance(mlp, one, upper, rules)[0], relevance(mlp, one, upper, plain)[0])


class Masked(nn.Module):
    """Attention over the pixels of an image, with options."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.embed, self.head, self.options = nn.Linear(3, 8), nn.Linear(8, 4), options

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x[:, :, :4, :4].flatten(2).transpose(1, 2))[:, None]
        return self.head(F.scaled_dot_product_attention(h, h, h, **self.options)[:, 0].mean(1))


CAUSAL = torch.ones(16, 16, dtype=torch.bool).tril()
VALUES = torch.randn(16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def explained(model: nn.Module, x: Tensor, preprocessing: Preprocessing) -> Attribution:
    """AttnLRP of a network whose weights are drawn anew, always the same, in float64."""
    generator = torch.Generator().manual_seed(0)
    for value in model.double().parameters():
        value.data.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
    explainer = LRP("epsilon-plus", attention="attnlrp")
    return explain_model(model.eval(), x.double(), question(model, x.double()), explainer, preprocessing)


@pytest.mark.parametrize(
    ("options", "low"),
    [
        ({"is_causal": True}, torch.zeros(16, 16)),
        ({"attn_mask": CAUSAL}, torch.zeros(16, 16)),
        ({"attn_mask": torch.zeros(16, 16).double().masked_fill(~CAUSAL, -torch.inf)}, torch.zeros(16, 16)),
        ({"attn_mask": VALUES.masked_fill(~CAUSAL, -torch.inf)}, VALUES),
    ],
)
def test_attention_with_holes_is_as_with_very_low_scores(options, low: Tensor, x: Tensor, preprocessing) -> None:
    maps = explained(Masked(**options), x, preprocessing)
    wanted = explained(Masked(attn_mask=low.double().masked_fill(~CAUSAL, -1e4)), x, preprocessing)
    torch.testing.assert_close(maps.relevance, wanted.relevance, rtol=1e-5, atol=1e-6)
    for kind in ("softmax", "constant"):
        line = f"absorbed_{kind}"
        torch.testing.assert_close(maps.measured[line], wanted.measured[line], rtol=1e-6, atol=1e-8)
    assert float(maps.measured["imbalance"].max()) < 1e-12


def test_heads_that_share_keys_and_values(x: Tensor, preprocessing: Preprocessing) -> None:
    class Grouped(nn.Module):
        def __init__(self, grouped: bool) -> None:
            super().__init__()
            self.grouped, self.q, self.k, self.head = grouped, nn.Linear(3, 8), nn.Linear(3, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x[:, :, :4, :4].flatten(2).transpose(1, 2)
            q, k = (layer(tokens).unflatten(2, (-1, 2)).transpose(1, 2) for layer in (self.q, self.k))
            if not self.grouped:
                k = k.repeat_interleave(2, 1)
            mixed = F.scaled_dot_product_attention(q, k, k, enable_gqa=self.grouped)
            return self.head(mixed.transpose(1, 2).flatten(2).mean(1))

    shared, apart = (explained(Grouped(grouped), x, preprocessing) for grouped in (True, False))
    torch.testing.assert_close(shared.relevance, apart.relevance, rtol=1e-5, atol=1e-6)


def test_attention_with_a_mask_that_depends_on_the_image_has_no_rule(x: Tensor, preprocessing: Preprocessing) -> None:
    class Own(Masked):
        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x[:, :, :4, :4].flatten(2).transpose(1, 2))[:, None]
            return self.head(F.scaled_dot_product_attention(h, h, h, attn_mask=h @ h.transpose(2, 3))[:, 0].mean(1))

    with pytest.raises(ExplanationError, match="operations without an LRP rule is"):
        explained(Own(), x, preprocessing)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_finite_mask_is_an_added_constant(scale: float | None, x: Tensor, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = Masked(attn_mask=torch.randn(16, 16), scale=scale).eval()
    attribution = explain_model(model, x, question(model, x), LRP("epsilon-plus", attention="attnlrp"), preprocessing)
    assert bool(attribution.measured["absorbed_constant"].any())


def test_a_product_of_two_signals_has_a_rule_with_attnlrp_alone() -> None:
    def squared(x: Tensor) -> Tensor:
        return x @ x.transpose(-2, -1)

    for attention, missed in (("attnlrp", {}), ("constant", {("matmul", "Calls"): 1})):
        model = Calls(squared).eval()
        mode, trail = RelevanceMode(Rules(Epsilon(EPS), Epsilon(EPS), attention=attention)), Trail(model)
        mode.trail = trail
        with mode.installed(model) as modified:
            assert dict(trail.missing_rules(modified(numbers(2, 3, 4).requires_grad_()))) == missed


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lrp:attention=atnlrp", UnknownNameError, "did you mean 'attnlrp'"),
        ("lrp:linear_gamma=-1", ConfigError, "linear_gamma must be a finite number >= 0, got -1.0"),
        ("lrp:attention=constant,canonizer=none", ConfigError, "needs canonizer=auto, got canonizer=none: leave out"),
        ("lrp:linear_gamma=1,canonizer=resnet", ConfigError, r"linear_gamma=1.0 needs canonizer=auto, .*: leave out"),
    ],
)
def test_bad_options(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_explainer(text)
    assert "\n" not in str(caught.value)


def test_a_vision_transformer_of_timms_is_explained_alike_fused_and_explicitly(preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = unsettled(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)).double()
    x = preprocessing(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).double()
    target, maps = question(model, x), []
    for fused in (True, False):
        for block in model.blocks:
            block.attn.fused_attn = fused
        maps.append(LRP(attention="attnlrp").attribute(model, x, target, preprocessing, Room(8)))
    torch.testing.assert_close(maps[0].relevance, maps[1].relevance, rtol=1e-4, atol=1e-7)

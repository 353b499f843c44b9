from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.attribution.lrp.books import Books
from xaibench.attribution.lrp.composites import Rules
from xaibench.attribution.lrp.missing_rules import Trail
from xaibench.attribution.lrp.mode import RelevanceMode
from xaibench.attribution.lrp.rules import Epsilon

RULES = Rules(Epsilon(1e-9), Epsilon(1e-9), stabilizer=1e-9)


class Calls(nn.Module):
    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def relevance(
    function: Callable[..., Tensor], x: Tensor, upper: Tensor, *modules: nn.Module, books: Books | None = None
):
    """(output, relevance at x) of a function whose output has the relevance `upper`."""
    model = Calls(function, *modules).double().eval().requires_grad_(False)
    x = x.clone().requires_grad_()
    with RelevanceMode(RULES, books).installed(model) as modified:
        output = modified(x)
        return output.detach(), torch.autograd.grad(output, x, grad_outputs=upper)[0]


def missing(function: Callable[..., Tensor], x: Tensor, *modules: nn.Module) -> dict[tuple[str, str], int]:
    model = Calls(function, *modules).double().eval().requires_grad_(False)
    mode, trail = RelevanceMode(RULES), Trail(model)
    mode.trail = trail
    with mode.installed(model) as modified:
        return dict(trail.missing_rules(modified(x.clone().requires_grad_())))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = numbers(2, 3, 4, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + F.relu(x),
        lambda x: torch.add(x, F.relu(x)),
        lambda x: sum([x, F.relu(x)]),
        lambda x: (x * 1).add_(F.relu(x)),
        lambda x: -(-x - F.relu(x)),
    ],
)
def test_a_residual_sum_shares_in_proportion(function: Callable[[Tensor], Tensor]) -> None:
    upper = numbers(*X.shape, seed=1)
    output, got = relevance(function, X, upper)
    torch.testing.assert_close(output, X + X.relu())
    # relu passes on what it gets: x / y R + relu(x) / y R
    torch.testing.assert_close(got, (X + X.relu()) / output * upper, rtol=1e-6, atol=1e-8)


def test_both_branches_of_a_sum_get_their_own_share() -> None:
    upper = numbers(2, 3, 4, 4, seed=1)
    output, got = relevance(lambda x: x[:, :, :, :4] + x[:, :, :, 4:], numbers(2, 3, 4, 8), upper)
    a, b = numbers(2, 3, 4, 8)[..., :4], numbers(2, 3, 4, 8)[..., 4:]
    torch.testing.assert_close(output, a + b)
    torch.testing.assert_close(got, torch.cat([a, b], -1) * (upper / output).repeat(1, 1, 1, 2), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "function",
    [
        F.relu, torch.relu, lambda x: x.clone().relu_(), lambda x: F.relu(x.clone(), True), F.relu6, F.silu, F.gelu,
        lambda x: F.gelu(x, approximate="tanh"), F.hardswish, F.leaky_relu, F.elu, torch.tanh, torch.sigmoid,
        lambda x: x.clamp(0, 6), lambda x: x * x.sigmoid(), lambda x: F.hardsigmoid(x) * x, lambda x: x / 3,
        lambda x: 0.1 * x, lambda x: x * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1),
    ],
)  # fmt: skip
def test_relevance_passes_through_activations_and_scales(function: Callable[[Tensor], Tensor]) -> None:
    upper = numbers(*X.shape, seed=1)
    output, got = relevance(function, X, upper)
    torch.testing.assert_close(output, function(X))
    torch.testing.assert_close(got, upper)


def test_a_gate_gets_none() -> None:
    def excite(x: Tensor, squeeze: nn.Module) -> Tensor:
        return x * torch.sigmoid(squeeze(x.mean((2, 3), keepdim=True)))[:, :, :, :]

    def transposed(x: Tensor, squeeze: nn.Module) -> Tensor:
        return F.hardsigmoid(squeeze(x.mean((2, 3)))).view(-1, 3, 1, 1).expand_as(x).mul(x)

    upper = numbers(*X.shape, seed=1)
    for function, squeeze in ((excite, nn.Conv2d(3, 3, 1)), (transposed, nn.Linear(3, 3))):
        assert torch.equal(relevance(function, X, upper, squeeze)[1], upper)
        assert missing(function, X, squeeze) == {}


@pytest.mark.parametrize(
    ("function", "matrix"),
    [
        (lambda x: x.mean((2, 3)), torch.full((1, 16), 1 / 16)),
        (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), torch.full((1, 16), 1 / 16)),
        (lambda x: x.sum((2, 3)), torch.ones(1, 16)),
        (lambda x: F.avg_pool2d(x, (4, 2)).flatten(1), None),
    ],
)
def test_pools_share_in_proportion(function: Callable[[Tensor], Tensor], matrix: Tensor | None) -> None:
    if matrix is None:
        matrix = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(1, 4) / 8
    matrix = matrix.double()
    flat = X.flatten(2)
    wanted = torch.einsum("ncp,qp->ncq", flat, matrix)
    upper = numbers(*wanted.shape, seed=1)
    output, got = relevance(function, X, upper.reshape(function(X).shape))
    torch.testing.assert_close(output, wanted.reshape(output.shape))
    shares = flat[:, :, None] * matrix / wanted[..., None] * upper[..., None]
    torch.testing.assert_close(got, shares.sum(2).view_as(X), rtol=1e-6, atol=1e-8)


def norm_twin(x: Tensor, upper: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Tensor:
    """x_i sum_j J_ji R_j / y_j over the last dimension, J = gain_j (delta_ij - 1/d) / sigma, one token at a time."""
    result = torch.zeros_like(x)
    d = x.shape[-1]
    for index in torch.cartesian_prod(*map(torch.arange, x.shape[:-1])):
        token, r = x[tuple(index)], upper[tuple(index)]
        sigma = (token.var(correction=0) + eps).sqrt()
        jacobian = gain[:, None] * (torch.eye(d, dtype=torch.float64) - 1 / d) / sigma
        y = jacobian @ token + shift
        result[tuple(index)] = token * (jacobian.T @ (r / y))
    return result


@pytest.mark.parametrize("options", [{}, {"dim": -1}, {"p": 1.0, "dim": 2, "eps": 1e-6}])
def test_normalisation_to_unit_length_hands_relevance_on(options: dict) -> None:
    upper = numbers(2, 3, 4, 4, seed=1)
    output, found = relevance(lambda x: F.normalize(x, **options), X, upper)
    torch.testing.assert_close(output, F.normalize(X, **options))
    assert torch.equal(found, upper)
    assert missing(lambda x: F.normalize(x, **options), X) == {}


def test_layer_normalisation_is_linear_with_sigma_held_constant() -> None:
    norm = nn.LayerNorm(6, eps=1e-3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, upper = numbers(2, 3, 6), numbers(2, 3, 6, seed=1)
    output, got = relevance(lambda x, norm: norm(x), x, upper, norm)
    torch.testing.assert_close(output, norm(x))
    torch.testing.assert_close(got, norm_twin(x, upper, norm.weight, norm.bias, 1e-3), rtol=1e-6, atol=1e-8)


def attention_twin(x: Tensor, upper: Tensor, w: Tensor, b: Tensor, out_w: Tensor, out_b: Tensor, heads: int) -> Tensor:
    """Relevance at tokens x (L, d) of one image: epsilon rule in the layers, A v linear in v, one output at a time."""
    length, d = x.shape
    size = d // heads
    q, k, v = (x @ w.T + b).split(d, dim=1)
    mixed, part = torch.zeros_like(x), []
    for h in range(heads):
        cut = slice(h * size, (h + 1) * size)
        part.append(torch.softmax(q[:, cut] @ k[:, cut].T / size**0.5, dim=1))
        mixed[:, cut] = part[h] @ v[:, cut]
    z = mixed @ out_w.T + out_b
    r_mixed, r_v, r_x = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for token in range(length):
        for j in range(d):
            r_mixed[token] += mixed[token] * out_w[j] / z[token, j] * upper[token, j]
    for token in range(length):
        for c in range(d):
            r_v[:, c] += part[c // size][token] * v[:, c] / mixed[token, c] * r_mixed[token, c]
    for token in range(length):
        for c in range(d):
            r_x[token] += x[token] * w[2 * d + c] / v[token, c] * r_v[token, c]
    return r_x


def _torchs(x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    return attention(x, x, x, need_weights=False)[0]


def _torchs_with_weights(x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    output, weights = attention(x, x, x)
    assert weights.shape == (len(x), 4, 4)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(len(x), 4).to(weights))
    return output


def _fused(x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    return attention.out_proj(F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2))


def _explicit(x: Tensor, attention: nn.MultiheadAttention) -> Tensor:
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weights = F.dropout((q @ k.transpose(-2, -1) * 3**-0.5).softmax(dim=-1), training=False)
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("function", [_torchs, _torchs_with_weights, _fused, _explicit])
def test_attention_is_linear_with_its_weights_held_constant(function: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True).double()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    x, upper = numbers(2, 4, 6), numbers(2, 4, 6, seed=1)
    output, got = relevance(function, x, upper, attention)
    torch.testing.assert_close(output, attention(x, x, x)[0])
    weights = (attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias)
    wanted = torch.stack([attention_twin(x[i], upper[i], *weights, heads=2) for i in range(2)]).detach()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert missing(function, x, attention) == {}


def test_a_batch_norm_that_stands_alone_follows_the_epsilon_rule() -> None:
    norm = nn.BatchNorm2d(3).double()
    for value in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(value)
    x, upper = numbers(2, 3, 4, 4), numbers(2, 3, 4, 4, seed=1)
    output, got = relevance(lambda x, norm: norm(F.relu(x)), x, upper, norm)
    slope = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(3, 1, 1).detach()
    torch.testing.assert_close(got, slope * x.relu() / output * upper, rtol=1e-6, atol=1e-8)


def test_constants_that_are_added_or_joined_take_their_share() -> None:
    token = numbers(1, 1, 6, seed=2)

    def embed(x: Tensor) -> Tensor:
        return torch.cat([token.expand(len(x), -1, -1), x], dim=1) + token

    x, upper, books = numbers(2, 3, 6), numbers(2, 4, 6, seed=1), Books(2)
    got = relevance(embed, x, upper, books=books)[1]
    torch.testing.assert_close(got, x / (x + token) * upper[:, 1:], rtol=1e-6, atol=1e-8)
    added = token / (x + token) * upper[:, 1:]
    wanted = (upper[:, 0] / 2).sum(1) + (upper[:, 0] / 2).sum(1) + added.sum((1, 2))
    torch.testing.assert_close(books.absorbed["constant"], wanted, rtol=1e-6, atol=1e-8)


NORM = nn.BatchNorm2d(3).requires_grad_(False)
NORM.running_mean.fill_(0.3)
LAYER_NORM = nn.LayerNorm(4).requires_grad_(False)
LAYER_NORM.bias.copy_(torch.tensor([0.1, 0.2, -0.3, 0.4]))
MULTI_HEAD = nn.MultiheadAttention(4, 2, batch_first=True).requires_grad_(False)
MULTI_HEAD.in_proj_bias.fill_(0.2)
MULTI_HEAD.out_proj.bias.fill_(-0.1)
LATER = nn.MultiheadAttention(4, 2)
LATER.load_state_dict(MULTI_HEAD.state_dict())


@pytest.mark.parametrize(
    ("function", "modules", "kind"),
    [
        (lambda x: x + 0.5, (), "constant"),
        (lambda x: 1.5 - x, (), "constant"),
        (lambda x: torch.add(x, X[:1], alpha=2), (), "constant"),
        (lambda x: torch.sub(X[:1], x, alpha=3), (), "constant"),
        (lambda x: torch.cat([X[:1].expand_as(x), x], dim=1), (), "constant"),
        (lambda x: torch.stack([x, X[:1].expand_as(x)], dim=2), (), "constant"),
        (lambda x: F.pad(x, (1, 0, 0, 2), value=0.7), (), "constant"),
        (lambda x: F.pad(x, (1, 0, 0, 2)).flip(3), (), "constant"),
        (lambda x, norm: norm(F.relu(x)), (NORM,), "normalisation"),
        (lambda x, norm: norm(x), (LAYER_NORM,), "normalisation"),
        (lambda x, norm: norm(x).flatten(2).roll(1, 2), (LAYER_NORM,), "normalisation"),
        (lambda x, linear: linear(x), (nn.Linear(4, 5),), "linear"),
        (lambda x, conv: conv(x), (nn.Conv2d(3, 5, 2, bias=True),), "convolution"),
        (lambda x, attention: _torchs(x.flatten(2).transpose(1, 2)[..., :2].repeat(1, 1, 2), attention),
         (MULTI_HEAD,), "linear"),
        (lambda x, attention: _torchs(x[:, 0].transpose(0, 1), attention).transpose(0, 1), (LATER,), "linear"),
    ],
)  # fmt: skip
def test_the_books_balance(function: Callable[..., Tensor], modules: tuple[nn.Module, ...], kind: str) -> None:
    books = Books(2)
    with torch.no_grad():
        shape = function(X, *(module.double() for module in modules)).shape
    upper = numbers(*shape, seed=1)
    got = relevance(function, X, upper, *modules, books=books)[1]
    absorbed = books.absorbed
    found = got.flatten(1).sum(1) + sum(absorbed.values())
    torch.testing.assert_close(found, upper.flatten(1).sum(1), rtol=1e-10, atol=1e-10)
    assert {name for name, amount in absorbed.items() if bool(amount.any())} - {"stabiliser"} == {kind}


def test_zero_padding_belongs_to_the_convolution() -> None:
    conv = nn.Conv2d(3, 5, 3, stride=2).double()
    upper = numbers(2, 5, 2, 2, seed=1)
    padded = relevance(lambda x, conv: conv(F.pad(x, (0, 1, 0, 1))), X, upper, conv)[1]
    grown = F.pad(X, (0, 1, 0, 1))
    wanted = relevance(lambda x, conv: conv(x), grown, upper, conv)[1][:, :, :4, :4]
    torch.testing.assert_close(padded, wanted)


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_padding_by_name(padding: str | int) -> None:
    conv = nn.Conv2d(3, 5, 3, dilation=2, padding=padding, bias=False).double()
    x = numbers(1, 3, 6, 6)
    upper = conv(x).detach()
    output, got = relevance(lambda x, conv: conv(x), x, upper, conv)
    torch.testing.assert_close(output, upper)
    torch.testing.assert_close(got.sum(), upper.sum(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x * x.relu(), "mul"),
        (lambda x: x / (1 + x.abs()), "div"),
        (lambda x: x.abs(), "abs"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x @ x.relu().transpose(-2, -1), "matmul"),
        (lambda x: F.group_norm(x, 1), "group_norm"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 3, 3, dtype=torch.float64)), "conv_transpose2d"),
        (lambda x: F.conv2d(x, torch.ones(3, 3, 2, 2, dtype=torch.float64), padding="same"), "conv2d"),
        (lambda x: F.linear(x, x[0, 0].relu()), "linear"),
        (lambda x: x**2, "pow"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_what_has_no_rule_is_named_where_relevance_meets_it(function: Callable[[Tensor], Tensor], name: str) -> None:
    assert (name, "Calls") in missing(function, X)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, upper: Tensor) -> Tensor:
        return 2 * upper


def test_functions_of_the_networks_own_are_named() -> None:
    assert missing(lambda x: F.relu(Doubled.apply(x)), X) == {("doubled", "the model"): 1}


def test_without_gradients_the_copy_is_an_ordinary_model() -> None:
    norm = nn.LayerNorm(4)
    model = Calls(lambda x, norm: norm(x * x.sigmoid()), norm).double().requires_grad_(False)
    with RelevanceMode(RULES).installed(model) as modified, torch.no_grad():
        got = modified(X)
    torch.testing.assert_close(got, norm(X * X.sigmoid()))

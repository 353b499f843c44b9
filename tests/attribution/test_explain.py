from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.explain import EXPLAINERS, explain, parse_explainer
from xaibench.attribution.gradients import IntegratedGradients
from xaibench.attribution.lrp import LRP
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError
from xaibench.models.pair import ClassSlice

FAST_IG = IntegratedGradients(steps=4, max_steps=4)


def snapshot(model: nn.Module) -> list[object]:
    """Everything about a model that an explanation could disturb."""
    seen: list[object] = []
    for name, module in model.named_modules():
        hooks = [key for key in vars(module) if "hooks" in key]
        seen.append((name, id(module), module.training, getattr(module, "inplace", None), sorted(vars(module))))
        seen.append([list(vars(module)[key]) for key in hooks if vars(module)[key]])
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        seen.append((name, id(value), value.requires_grad, value.grad, value._version))
        seen.append(value.detach().numpy().tobytes())
    return [*seen, list(model.state_dict())]


def counting_hook(calls: list[int]) -> Callable[..., None]:
    return lambda *_: calls.append(1)


@pytest.fixture
def lived_in(network: nn.Module) -> nn.Module:
    """A model in use: training mode, one part frozen, a hook of the user's."""
    network.train()
    network.layer1.eval().requires_grad_(False)
    network.layer2.register_forward_hook(counting_hook([]))
    return ClassSlice(network, (0, 1, 2, 3))


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_the_model_is_left_byte_identical(explainer, lived_in: nn.Module, x, target, preprocessing) -> None:
    before = snapshot(lived_in)
    explain(lived_in, x, target, explainer, preprocessing, check=explainer.name == "lrp")
    assert snapshot(lived_in) == before


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_the_model_is_left_byte_identical_after_an_exception(explainer, lived_in, x, target, preprocessing) -> None:
    before = snapshot(lived_in)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(lived_in, x, target, explainer, preprocessing, on_batch=interrupt)
    with pytest.raises(ExplanationError):
        explain(lived_in, x, target, LRP(canonizer="none"), preprocessing)
    with pytest.raises(ExplanationError):
        explain(lived_in, x.repeat(1, 2, 1, 1), target, explainer, preprocessing)
    assert snapshot(lived_in) == before


def test_the_snapshot_notices(network: nn.Module) -> None:
    before = snapshot(network)
    network.bn1.running_mean.add_(1).sub_(1)
    assert snapshot(network) != before


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_training_mode_makes_no_difference(explainer, network: nn.Module, x, target, preprocessing) -> None:
    evaluated = explain(network.eval(), x, target, explainer, preprocessing, check=False)
    trained = explain(network.train(), x, target, explainer, preprocessing, check=False)
    assert torch.equal(evaluated.relevance, trained.relevance)


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_gradients_switched_off_make_no_difference(explainer, network: nn.Module, x, target, preprocessing) -> None:
    with torch.no_grad():
        inside = explain(network, x, target, explainer, preprocessing, check=False)
    outside = explain(network, x, target, explainer, preprocessing, check=False)
    assert torch.equal(inside.relevance, outside.relevance)
    assert bool(inside.relevance.any())


def test_the_same_call_gives_the_same_bytes(network: nn.Module, x, target, preprocessing) -> None:
    first, second = (explain(network, x, target, LRP(), preprocessing) for _ in range(2))
    assert torch.equal(first.relevance, second.relevance)
    assert (first.model_hash, first.input_hash) == (second.model_hash, second.input_hash)


def test_the_result_carries_its_provenance(network: nn.Module, x, target, preprocessing) -> None:
    attribution = explain(network, x, target, LRP(), preprocessing)
    assert attribution.relevance.shape == x.shape
    assert attribution.relevance.dtype == torch.float32
    assert set(attribution.versions) == {"xaibench", "torch", "zennit"}
    assert [check.name for check in attribution.validity.checks] == [
        "operations without an LRP rule",
        "relative output difference",
        "LRP conservation error",
        "maps with non-finite values",
        "all-zero maps",
    ]
    other = explain(network, 0.99 * x, target, LRP(), preprocessing)
    assert other.input_hash != attribution.input_hash
    assert other.model_hash == attribution.model_hash
    network.fc.bias.data[0] += 1
    assert explain(network, x, target, LRP(), preprocessing).model_hash != attribution.model_hash


def test_the_checks_run_once_and_not_per_batch(network, x, target, preprocessing, monkeypatch) -> None:
    calls, original = [], LRP.validate
    monkeypatch.setattr(
        LRP, "validate", lambda self, m, few, *rest: calls.append(len(few)) or original(self, m, few, *rest)
    )
    seen: list[int] = []
    explain(network, x, target, LRP(), preprocessing, batch_size=2, on_batch=seen.append)
    assert calls == [4]
    assert seen == [2, 2, 1]


def test_without_checks_nothing_is_refused_and_nothing_is_called_valid(network, x, target, preprocessing) -> None:
    attribution = explain(network, x, target, LRP(canonizer="none"), preprocessing, check=False)
    assert not attribution.validity.valid
    with pytest.raises(ExplanationError, match="checks left out"):
        attribution.validity.require()


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3)), x


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) * torch.nan


class NaNGradient(nn.Module):
    """Finite logits whose gradient is not: d sqrt(0) = inf, times 0 is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) + (0 * x).sqrt().sum(dim=(2, 3))


class Scalar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))


def to_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[3, 0, 0, 0] = torch.nan
    return x


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, x, t: (m, to_nan(x), t), r"input 3 has NaN or infinite values \(1 of 5 images do\)"),
        (lambda m, x, t: (m, x[:, :1], t), "images have 1 channels but the preprocessing has 3"),
        (lambda m, x, t: (m, x[0], t), r"normalised images \(N, C, H, W\), got torch.float32"),
        (lambda m, x, t: (m, x.byte(), t), "got torch.uint8 .* apply the preprocessing first"),
        (lambda m, x, t: (m, x[:0], t.take([])), "no images to explain"),
        (lambda m, x, t: (m, x[:3], t), "3 images but 5 targets"),
        (
            lambda m, x, t: (m, x, Target(t.label * 0 + 4, t.contrast)),
            "class 4 is not among the 4 classes of ScaledResNet18",
        ),
        (lambda m, x, t: (m, x, Target(t.label * 0 - 1, t.contrast)), "class -1 is not among"),
        (lambda m, x, t: (nn.Conv2d(1, 2, 3), x, t), "Conv2d cannot process images of shape"),
        (lambda m, x, t: (Tuple(), x, t), r"Tuple returns tuple, not logits \(N, K\)"),
        (lambda m, x, t: (Scalar(), x, t), r"Scalar returns shape \(5?4?,\), not logits"),
        (lambda m, x, t: (Broken(), x, t), "Broken gives NaN or infinite logits"),
    ],
)
def test_bad_input(change, message: str, explainer, network, x, target, preprocessing: Preprocessing) -> None:
    model, images, question = change(network, x, target)
    with pytest.raises(ExplanationError, match=message) as caught:
        explain(model, images, question, explainer, preprocessing)
    assert "\n" not in str(caught.value)


def test_non_finite_maps_are_refused(x: Tensor, preprocessing: Preprocessing) -> None:
    target = Target(torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    with pytest.raises(ExplanationError, match=r"maps with non-finite values is 5, at most 0 passes \(of 5\)"):
        explain(NaNGradient(), x, target, FAST_IG, preprocessing)


def test_bad_batch_size(network: nn.Module, x, target, preprocessing) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        explain(network, x, target, LRP(), preprocessing, batch_size=0)


def test_explainers_by_name() -> None:
    assert parse_explainer("lrp:gamma=0.25") == LRP(gamma=0.25)
    assert parse_explainer("ig:steps=20,baseline=mean") == IntegratedGradients(steps=20, baseline="mean")
    assert all(cls.name == name for name, cls in EXPLAINERS.items())
    with pytest.raises(UnknownNameError, match="unknown explainer 'lpr': did you mean 'lrp'"):
        parse_explainer("lpr")

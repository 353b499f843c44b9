from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaibench.attribution.explain import EXPLAINERS, check_explainable, explain, explain_model, parse_explainer
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError, XaibenchError

FAST_IG = IntegratedGradients(steps=4)


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_training_mode_makes_no_difference(explainer, network: nn.Module, x, target, preprocessing) -> None:
    evaluated = explain_model(network.eval(), x, target, explainer, preprocessing, check=False)
    trained = explain_model(network.train(), x, target, explainer, preprocessing, check=False)
    assert torch.equal(evaluated.relevance, trained.relevance)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("explainer", [LRP(), FAST_IG])
def test_gradients_switched_off_make_no_difference(explainer, network: nn.Module, x, target, preprocessing) -> None:
    with torch.no_grad():
        inside = explain_model(network, x, target, explainer, preprocessing, check=False)
    with torch.inference_mode():
        strictly = explain_model(network, 1.0 * x, target, explainer, preprocessing, check=False)
    outside = explain_model(network, x, target, explainer, preprocessing, check=False)
    assert torch.equal(inside.relevance, outside.relevance)
    assert torch.equal(strictly.relevance, outside.relevance)
    assert bool(inside.relevance.any())


def test_the_same_call_gives_the_same_bytes(network: nn.Module, x, target, preprocessing) -> None:
    first, second = (explain_model(network, x, target, LRP(), preprocessing) for _ in range(2))
    assert torch.equal(first.relevance, second.relevance)
    assert (first.model_hash, first.input_hash) == (second.model_hash, second.input_hash)


def test_the_result_carries_its_provenance(network: nn.Module, x, target, preprocessing) -> None:
    attribution = explain_model(network, x, target, LRP(), preprocessing)
    assert attribution.relevance.shape == x.shape
    assert attribution.relevance.dtype == torch.float32
    assert set(attribution.versions) == {"xaibench", "torch", "zennit"}
    assert [check.name for check in attribution.validity.checks] == [
        "operations without an LRP rule",
        "relative output difference",
        "LRP conservation error",
        "share of relevance left to stabilisers",
        "change of one image's relevance in a batch",
        "imbalance of LRP's books",
        "maps with non-finite values",
        "all-zero maps",
    ]
    other = explain_model(network, 0.99 * x, target, LRP(), preprocessing)
    assert other.input_hash != attribution.input_hash
    assert other.model_hash == attribution.model_hash
    network.fc.bias.data[0] += 1
    assert explain_model(network, x, target, LRP(), preprocessing).model_hash != attribution.model_hash


def test_the_checks_run_once_and_not_per_batch(network, x, target, preprocessing, monkeypatch) -> None:
    calls, original = [], LRP.validate
    monkeypatch.setattr(
        LRP, "validate", lambda self, m, few, *rest: calls.append(len(few)) or original(self, m, few, *rest)
    )
    seen: list[int] = []
    explain_model(network, x, target, LRP(), preprocessing, batch_size=2, on_batch=seen.append)
    assert calls == [4]
    assert seen == [2, 2, 1]


def test_without_checks_nothing_is_refused_and_nothing_is_called_valid(network, x, target, preprocessing) -> None:
    attribution = explain_model(network, x, target, LRP(canonizer="none"), preprocessing, check=False)
    assert not attribution.validity.valid
    with pytest.raises(ExplanationError, match="checks left out"):
        attribution.validity.require()


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3)), x.amax(dim=(2, 3))


class Dictionary(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x.mean(dim=(2, 3))}


class Hoarder(nn.Module):
    """Keeps what it computed in a list, as a cache of features would."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.kept = [self.layer(torch.zeros(1, 3, 4, 4))]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(dim=(2, 3))


class Keyless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return {}["logits"]


class Random(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.inner(x), 0.5, training=True)


class BatchStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(x), x[:, :1]], dim=1).relu().mean(dim=(2, 3))


class Overwriting(nn.Module):
    """Adds what its activation has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return (self.b(self.relu(h)) + h).mean(dim=(2, 3))


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


def scattered(model: nn.Module) -> nn.Module:
    model.fc.to("meta")  # type: ignore[operator, union-attr]
    return model


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
        (lambda m, x, t: (Tuple(), x, t), r"Tuple returns tuple of 2 tensors of shape \(\d, 3\), not logits \(N, K\)"),
        (
            lambda m, x, t: (Dictionary(), x, t),
            r"Dictionary returns dict without 'logits' \(features\), .*: wrap it so that it does",
        ),
        (lambda m, x, t: (Hoarder(), x, t), "Hoarder cannot be copied .*: remove what it keeps of earlier passes"),
        (lambda m, x, t: ("resnet18", x, t), "model must be a Module, got 'resnet18'"),
        (lambda m, x, t: (m, x.to("meta"), t), "the images are on the meta device, which holds no values: load them"),
        (lambda m, x, t: (m.to("meta"), x, t), "ScaledResNet18 lies on the meta device and has no weights: load them"),
        (lambda m, x, t: (scattered(m), x, t), r"ScaledResNet18 lies on cpu and meta: .* with model\.to\(DEVICE\)"),
        (lambda m, x, t: (Scalar(), x, t), r"Scalar returns a tensor of shape \(\d,\), not logits"),
        (lambda m, x, t: (Broken(), x, t), "Broken gives NaN or infinite logits"),
        (lambda m, x, t: (Keyless(), x, t), r"Keyless cannot process images of shape .* \('logits'\)"),
        (lambda m, x, t: (m, x, t.label), "target must be a Target, got tensor"),
        (
            lambda m, x, t: (Random(m), x, t),
            r"Random gives an image other logits each time \(.*\): switch off the noise",
        ),
        (lambda m, x, t: (BatchStatistics(), x, t), "other logits beside another image than alone .* running stat"),
        (lambda m, x, t: (BatchStatistics(), x[:1], t.take([0])), "other logits beside another image than alone"),
        (lambda m, x, t: (Overwriting(), x, t), r"overwritten in place \(.*\): set inplace=False there and write h = "),
    ],
)
def test_bad_input(change, message: str, explainer, network, x, target, preprocessing: Preprocessing) -> None:
    model, images, question = change(network, x, target)
    with pytest.raises(ExplanationError, match=message) as caught:
        explain_model(model, images, question, explainer, preprocessing)
    assert "\n" not in str(caught.value)


def test_non_finite_gradients_are_refused(x: Tensor, preprocessing: Preprocessing) -> None:
    target = Target(torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.int64))
    with pytest.raises(ExplanationError, match="gradient error against finite differences is nan"):
        explain_model(NaNGradient(), x, target, FAST_IG, preprocessing)


@pytest.mark.parametrize(
    ("change", "message"), [(10.0, r"has the value .*pixels 0\.\.255 give"), (-10.0, "has the value")]
)
def test_inputs_outside_the_box(change: float, message: str, network, x, target, preprocessing) -> None:
    x[1, 2, 3, 4] += change
    with pytest.raises(ExplanationError, match="input 1 " + message) as caught:
        explain_model(network, x, target, LRP(), preprocessing)
    assert "in channel 2" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")])
def test_images_go_to_the_models_device(devices: tuple[str, str], network, x, target, preprocessing) -> None:
    here = explain_model(network, x, target, LRP(), preprocessing)
    there = explain_model(network.to(devices[0]), x.to(devices[1]), target, LRP(), preprocessing)
    assert there.relevance.device.type == "cpu"
    torch.testing.assert_close(there.relevance, here.relevance, rtol=1e-2, atol=1e-3)


def test_what_belongs_to_each_image_is_put_together_again(network, x, target, preprocessing) -> None:
    explainer = IntegratedGradients(steps=2, baseline="blur")
    whole = explain_model(network, x, target, explainer, preprocessing, check=False)
    parts = explain_model(network, x, target, explainer, preprocessing, check=False, batch_size=2)
    assert whole.references["baseline"].shape == x.shape
    torch.testing.assert_close(parts.references["baseline"], whole.references["baseline"])
    some = whole.take([3, 1])
    assert torch.equal(some.references["baseline"], whole.references["baseline"][[3, 1]])
    black = IntegratedGradients(steps=2)
    shared = explain_model(network, x, target, black, preprocessing, check=False, batch_size=2)
    assert shared.references["baseline"].shape == (1, *x.shape[1:])
    assert torch.equal(shared.take([3, 1]).references["baseline"], shared.references["baseline"])


@pytest.mark.parametrize("explainer", [*(cls() for cls in EXPLAINERS.values())])
def test_no_explainer_takes_a_model_that_is_no_function_of_an_image(explainer, x, target, preprocessing) -> None:
    for model in (Random(Overwriting()), BatchStatistics(), Overwriting()):
        with pytest.raises(ExplanationError, match="logits differ by"):
            explain_model(model, x, target, explainer, preprocessing)


def test_a_compiled_model_is_explained_as_the_one_it_was_made_from(network, x, target, preprocessing) -> None:
    plain = explain_model(network, x, target, LRP(), preprocessing)
    for compiled in (torch.compile(network, backend="eager"), nn.Sequential(torch.compile(network, backend="eager"))):
        assert torch.equal(explain_model(compiled, x, target, LRP(), preprocessing).relevance, plain.relevance)
    again = explain_model(torch.compile(network, backend="eager"), x, target, LRP(), preprocessing)
    assert again.model_hash == plain.model_hash


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_model_is_refused(network: nn.Module, x: Tensor, target: Target, preprocessing) -> None:
    with pytest.raises(ExplanationError, match=r"scripted or traced model .* explain the Python model"):
        explain_model(torch.jit.trace(network, x), x, target, LRP(), preprocessing)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_are_made_in_each_pass(norm, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    model(x)
    first = explain_model(model, x, target, InputXGradient(), preprocessing).relevance
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), *model[1:])
    plain[0].weight.data, plain[0].bias.data = model[0].weight.detach(), model[0].bias.detach()
    torch.testing.assert_close(first, explain_model(plain, x, target, InputXGradient(), preprocessing).relevance)


@pytest.mark.parametrize("explainer", [LRP(), InputXGradient()])
def test_a_forward_that_runs_the_original_is_refused(explainer, network, x, target, preprocessing) -> None:
    plain = network.forward
    network.forward = lambda z: plain(z)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ExplanationError, match="a copy of ScaledResNet18 still runs the original"):
        explain_model(network, x, target, explainer, preprocessing)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_explainer_may_be_given_as_text(tiny_pair, tiny_task, network, x, target, preprocessing) -> None:
    made = explain_model(network, x, target, "lrp:gamma=2", preprocessing)
    assert made.explainer == LRP(gamma=2.0)
    assert check_explainable(network, x, target, "lrp", preprocessing)
    images = tiny_task.test.take(range(2))
    assert explain(tiny_pair, images, "input-x-gradient").student.explainer == InputXGradient()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainer": LRP}, r"explainer must be an Explainer or a text, got the class LRP: write LRP\(\)"),
        ({"explainer": None}, "explainer must be an Explainer or a text, got None"),
        ({"memory": "1GB"}, "memory must be a whole number or None, got '1GB'"),
        ({"memory": -3}, "memory must be at least 1, got -3: give a whole number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number or None, got 1.5"),
        ({"store": "maps"}, "store must be an AttributionStore or None, got 'maps'"),
        ({"device": "gpu"}, "unknown device 'gpu': write cpu, cuda"),
        ({"device": 3}, "device must be a device or a text or None, got 3"),
    ],
)
def test_bad_options(options: dict, message: str, network, x, target, preprocessing) -> None:
    given = {"explainer": LRP()} | options
    with pytest.raises(XaibenchError, match=message) as caught:
        explain_model(network, x, target, preprocessing=preprocessing, **given)
    assert "\n" not in str(caught.value)


def test_a_missing_preprocessing(network: nn.Module, x: Tensor, target: Target) -> None:
    with pytest.raises(ExplanationError, match="preprocessing must be a Preprocessing, got None"):
        explain_model(network, x, target, LRP(), None)


def test_a_pair_is_explained_on_labelled_images(tiny_pair, tiny_task) -> None:
    with pytest.raises(ExplanationError, match=r"images must be an ImageSet, got Tensor of torch\.uint8 \("):
        explain(tiny_pair, tiny_task.test.images, LRP())


def test_bad_batch_size(network: nn.Module, x, target, preprocessing) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        explain_model(network, x, target, LRP(), preprocessing, batch_size=0)


def test_explainers_by_name() -> None:
    assert parse_explainer("lrp:gamma=0.25") == LRP(gamma=0.25)
    assert parse_explainer("ig:steps=20,baseline=mean") == IntegratedGradients(steps=20, baseline="mean")
    assert all(cls.name == name for name, cls in EXPLAINERS.items())
    with pytest.raises(UnknownNameError, match="unknown explainer 'lpr': did you mean 'lrp'"):
        parse_explainer("lpr")

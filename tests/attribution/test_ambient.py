"""An explanation depends on its arguments: not on the process's settings, nor on other threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer
from xaibench.attribution.explain import EXPLAINERS, explain, explain_model
from xaibench.attribution.gradcam import GradCAM
from xaibench.attribution.gradients import InputXGradient
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.layers import layer_relevance
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.patches import Occlusion, ShapleySampling
from xaibench.attribution.result import Attribution
from xaibench.attribution.smoothgrad import SmoothGrad
from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import Target
from xaibench.errors import ConfigError, ExplanationError
from xaibench.models.layer_outputs import forward_with_layers

QUICK = (
    *(LRP(), LRP(canonizer="resnet"), InputXGradient(), SmoothGrad(samples=3), GradCAM()),
    *(IntegratedGradients(steps=8), ShapleySampling(patch=8, samples=2), Occlusion(patch=8)),
)


@contextmanager
def default_type() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def medium() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


AROUND: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default type": default_type,
    "medium precision": medium,
    "default device": lambda: torch.device("meta"),
}


@pytest.fixture
def x(x: Tensor) -> Tensor:
    return x[:2]


@pytest.fixture
def target(target: Target) -> Target:
    return target.take([0, 1])


def explained(network: nn.Module, x: Tensor, target: Target, explainer: Explainer, preprocessing) -> Attribution:
    checked = not isinstance(explainer, IntegratedGradients)  # whose 8 steps are too few to be complete
    return explain_model(network, x, target, explainer, preprocessing, check=checked)


def test_every_explainer_is_among_the_quick_ones() -> None:
    assert {type(explainer) for explainer in QUICK} == set(EXPLAINERS.values())


@pytest.mark.parametrize("around", AROUND)
def test_settings_of_the_process_make_no_difference(around: str, network, x, target, preprocessing) -> None:
    for explainer in QUICK:
        outside = explained(network, x, target, explainer, preprocessing)
        with AROUND[around]():
            inside = explained(network, x, target, explainer, preprocessing)
        assert torch.equal(inside.relevance, outside.relevance), explainer
        assert inside.validity == outside.validity
        for name, value in outside.references.items():
            assert torch.equal(inside.references[name], value)
    for lrp in (LRP(), None):
        wanted = layer_relevance(network, x, target, lrp, preprocessing, ["layer2"])["layer2"]
        with AROUND[around]():
            ours = layer_relevance(network, x, target, lrp, preprocessing, ["layer2"])["layer2"]
        assert torch.equal(ours.context, wanted.context)


@pytest.mark.parametrize("around", ["autocast", "inference_mode", "medium precision", "default type"])
def test_nor_to_a_pair(around: str, tiny_pair, tiny_task, tmp_path) -> None:
    images = tiny_task.test.take(range(4))
    store = AttributionStore(tmp_path)
    outside = explain(tiny_pair, images, "lrp", contrast="own", store=store)
    kept = len(store)
    with AROUND[around]():
        inside = explain(tiny_pair, images, "lrp", contrast="own")
        explain(tiny_pair, images, "lrp", contrast="own", store=store)
    assert len(store) == kept
    for a, b in zip(inside, outside):
        assert torch.equal(a.relevance, b.relevance)
        assert a.target.same_as(b.target)


class Watching(nn.Module):
    """Notes whether its products may be rounded to TF32."""

    seen: set[bool] = set()

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        self.seen.add(matmul or convolution)
        logits: Tensor = self.network(x)
        return logits


@pytest.mark.parametrize("explainer", [LRP(), InputXGradient()])
def test_no_pass_runs_in_tf32(explainer, network, x, target, preprocessing) -> None:
    model = Watching(network)
    model.seen.clear()
    with medium():
        explain_model(model, x, target, explainer, preprocessing)
        assert model.seen == {False}
        assert torch.backends.cuda.matmul.allow_tf32
        model(x)
    assert model.seen == {False, True}


@pytest.mark.parametrize("explainer", QUICK)
def test_a_float64_network_is_explained_in_float64(explainer, network, x, target, preprocessing) -> None:
    wanted = explained(network, x, target, explainer, preprocessing)
    network.double()
    for images in (x, x.double()):
        ours = explained(network, images, target, explainer, preprocessing)
        assert ours.relevance.dtype == torch.float32
        scale = float(wanted.relevance.abs().max())
        torch.testing.assert_close(ours.relevance, wanted.relevance, rtol=1e-3, atol=1e-4 * scale)
        assert all(value.dtype == torch.float32 for value in ours.references.values())
    assert next(network.parameters()).dtype == torch.float64


@pytest.mark.parametrize("explainer", QUICK)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_for_what_it_is(explainer, dtype, network, x, target, preprocessing) -> None:
    with pytest.raises(ExplanationError, match=r"ScaledResNet18 computes in b?float16 .*: convert it with model.float"):
        explain_model(network.to(dtype), x.to(dtype), target, explainer, preprocessing)


def test_images_in_half_precision_are_taken(network, x, target, preprocessing) -> None:
    rough = explain_model(network, x.half(), target, InputXGradient(), preprocessing)
    fine = explain_model(network, x.half().float(), target, InputXGradient(), preprocessing)
    assert torch.equal(rough.relevance, fine.relevance)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_is_not_there(network, x, target, preprocessing) -> None:
    with pytest.raises(ConfigError, match=r"^device 'cuda' is not there \(torch finds 0 GPUs\): write cpu$"):
        explain_model(network, x, target, LRP(), preprocessing, device="cuda")
    with pytest.raises(ConfigError, match=r"^device 'xpu' is not supported: write cpu, cuda or cuda:1$"):
        explain_model(network, x, target, LRP(), preprocessing, device="xpu")


def test_a_model_on_a_device_that_is_not_meant_stays_there(network, x, target, preprocessing) -> None:
    places = {name: value.data_ptr() for name, value in network.state_dict().items()}
    explain_model(network, x, target, LRP(), preprocessing, device="cpu")
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == places


def test_threads_explain_one_model_at_once(network: nn.Module, x: Tensor, target, preprocessing) -> None:
    network.train()
    wanted = {explainer: explained(network, x, target, explainer, preprocessing) for explainer in QUICK[:5]}

    def work(i: int) -> list[bool]:
        explainer = QUICK[i % 5]
        same = []
        for _ in range(2):
            with torch.no_grad():
                forward_with_layers(network, x, ("layer1",))
            ours = explain_model(network, x, target, explainer, preprocessing)
            same.append(torch.equal(ours.relevance, wanted[explainer].relevance))
        return same

    network.eval()
    with ThreadPoolExecutor(4) as pool:
        assert all(all(same) for same in pool.map(work, range(5)))
    assert all(not module.training for module in network.modules())

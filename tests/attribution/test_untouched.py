"""Whatever is explained, and however it ends: the user's model, images and random state are as they were."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from xaibench.attribution.base import Explainer
from xaibench.attribution.explain import EXPLAINERS, check_explainable, explain_model, parse_explainer
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target
from xaibench.errors import ExplanationError
from xaibench.models.class_slice import ClassSlice

CHEAP = {
    "ig": "ig:budget=40",
    "smoothgrad": "smoothgrad:samples=2",
    "shapley": "shapley:samples=1,patch=8",
    "occlusion": "occlusion:patch=8",
}

every_explainer = pytest.mark.parametrize(
    "explainer", [parse_explainer(CHEAP.get(name, name)) for name in EXPLAINERS], ids=list(EXPLAINERS)
)


def model_state(model: nn.Module) -> list[object]:
    """Everything about a model that an explanation could disturb."""
    seen: list[object] = []
    for name, module in model.named_modules():
        seen.append((name, id(module), type(module), module.training, sorted(vars(module))))
        seen.append({key: repr(value) for key, value in vars(module).items() if isinstance(value, (bool, int, float))})
        seen.append({key: list(value.items()) for key, value in vars(module).items() if "hooks" in key})
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if value.grad is None else (id(value.grad), value.grad.numpy().tobytes())
        seen.append((name, id(value), value.requires_grad, value.is_leaf, grad, value._version))
        seen.append(value.detach().numpy().tobytes())
        seen.append([list((value._backward_hooks or {}).items())])
    return [*seen, list(model.state_dict())]


def global_state() -> list[object]:
    """What torch, numpy and Python keep for everybody."""
    hooks = {name: list(value.items()) for name, value in vars(torch_module).items() if name.endswith("_hooks")}
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one is what is looked at)
    return [
        torch.get_rng_state().numpy().tobytes(),
        [part.tobytes() if isinstance(part, np.ndarray) else part for part in numpy_state],
        random.getstate(),
        (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled()),
        (torch.get_num_threads(), torch.backends.cudnn.enabled, torch.are_deterministic_algorithms_enabled()),
        hooks,
    ]


@pytest.fixture
def lived_in(network: nn.Module) -> nn.Module:
    """A model in use: training mode, one part frozen, gradients of the last step, a hook of the user's."""
    network.train()
    network.layer1.eval().requires_grad_(False)
    network.layer2.register_forward_hook(lambda *_: None)
    network.fc.register_full_backward_hook(lambda *_: None)
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    return ClassSlice(network, (0, 1, 2, 3))


@pytest.fixture
def look(lived_in: nn.Module, x: Tensor, target: Target) -> Callable[[], list[object]]:
    def look() -> list[object]:
        tensors = [
            (id(t), t.requires_grad, t._version, t.numpy().tobytes()) for t in (x, target.label, target.contrast)
        ]
        return [model_state(lived_in), global_state(), tensors]

    return look


@every_explainer
def test_after_an_explanation(explainer: Explainer, lived_in, x, target, preprocessing, look) -> None:
    before = look()
    explain_model(lived_in, x, target, explainer, preprocessing, check=False)
    assert look() == before


@every_explainer
def test_after_the_checks(explainer: Explainer, lived_in, x, target, preprocessing, look) -> None:
    before = look()
    check_explainable(lived_in, x, target, explainer, preprocessing)
    assert look() == before


class BoomError(RuntimeError):
    """Something in the user's model went wrong."""


class Bomb:
    """A forward hook, shared by all copies of the model, that raises at its nth call."""

    def __init__(self) -> None:
        self.calls, self.fuse, self.error = 0, -1, BaseException()

    def __deepcopy__(self, _memo: object) -> Bomb:
        return self

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.fuse:
            raise self.error

    def set(self, fuse: int, error: BaseException) -> None:
        self.calls, self.fuse, self.error = 0, fuse, error


@every_explainer
@pytest.mark.parametrize("error", [BoomError("boom"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_after_an_exception_in_the_middle(explainer, error, lived_in, x, target, preprocessing, look) -> None:
    bomb = Bomb()
    lived_in.network.layer3.register_forward_hook(bomb)
    explain_model(lived_in, x, target, explainer, preprocessing, check=False)
    calls = bomb.calls
    assert calls >= 2  # one to try the model, then the explanation
    before = look()
    for fuse in sorted({1, 2, calls // 2, calls}):
        bomb.set(fuse, error)
        with pytest.raises((type(error), ExplanationError)):
            explain_model(lived_in, x, target, explainer, preprocessing, check=False)
        assert look() == before
    bomb.set(2, error)
    with pytest.raises((type(error), ExplanationError)):
        explain_model(lived_in, x, target, explainer, preprocessing)
    assert look() == before


@every_explainer
def test_after_an_interrupt_between_batches(explainer, lived_in, x, target, preprocessing, look) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    before = look()
    with pytest.raises(KeyboardInterrupt):
        explain_model(lived_in, x, target, explainer, preprocessing, batch_size=2, check=False, on_batch=interrupt)
    assert look() == before


@every_explainer
def test_after_input_that_is_refused(explainer, lived_in, x, target, preprocessing, look) -> None:
    before = look()
    with pytest.raises(ExplanationError):
        explain_model(lived_in, x.repeat(1, 2, 1, 1), target, explainer, preprocessing)
    with pytest.raises(ExplanationError):
        explain_model(lived_in, x * torch.nan, target, explainer, preprocessing)
    with pytest.raises(ExplanationError):
        explain_model(lived_in, x, target, LRP(canonizer="none"), preprocessing)
    assert look() == before


@every_explainer
def test_the_random_state_does_not_matter(explainer, lived_in, x, target, preprocessing) -> None:
    maps = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the global one is what an explainer might draw from)
        random.seed(seed)
        maps.append(
            explain_model(lived_in, x[:2], target.take([0, 1]), explainer, preprocessing, check=False).relevance
        )
    assert torch.equal(*maps)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "value": lambda m: m.bn1.running_mean.add_(1).sub_(1),
    "mode": lambda m: m.bn1.eval(),
    "gradient": lambda m: setattr(m.fc.weight, "grad", None),
    "flag": lambda m: m.fc.weight.requires_grad_(False),
    "hook": lambda m: m.bn1.register_forward_hook(lambda *_: None),
    "backward hook": lambda m: m.bn1.register_full_backward_hook(lambda *_: None),
    "attribute": lambda m: setattr(m.bn1, "left_over", 1),
    "option": lambda m: setattr(m.bn1, "eps", 1e-3),
    "module": lambda m: setattr(m, "relu", nn.Softplus()),
    "type": lambda m: setattr(m.bn1, "__class__", nn.BatchNorm1d),
    "key": lambda m: m.register_buffer("left_over", torch.zeros(1)),
    "random state": lambda _: torch.rand(1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_look_notices(what: str, lived_in: nn.Module, look) -> None:
    before = look()
    assert look() == before
    CHANGES[what](lived_in.network)
    assert look() != before

"""Models that compute different things are described differently, the same model alike in every process."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from xaibench.models.description import Description, UndescribableError

GAIN = 2.0


def described(value: object) -> str:
    return json.dumps(Description()(value))


class Net(nn.Module):
    """f(x), f and whatever else it needs set as attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x


def kind(**members: Any) -> nn.Module:
    """A module of a class with these members and always the same name."""
    return type("Made", (Net,), {"__module__": __name__, "__qualname__": "Made"} | members)()  # type: ignore[no-any-return]


@dataclasses.dataclass
class Settings:
    gain: float = 1.0


@dataclasses.dataclass(slots=True)
class Slotted:
    gain: float = 1.0


class Act(enum.Enum):
    RELU = 1
    TANH = 2


class Gain:
    def __init__(self, gain: float) -> None:
        self.gain = gain

    def hook(self, _module: nn.Module, _x: Any, y: Tensor) -> Tensor:
        return y * self.gain


def hooked(hook: Any, **options: Any) -> nn.Module:
    net = Net()
    net.register_forward_hook(hook, **options)
    return net


def times(factor: Any) -> Callable[..., Tensor]:
    return lambda _module, _x, y: y * torch.as_tensor(factor)


def constant(value: float) -> nn.Module:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def keyword(gain: float) -> Callable[..., Tensor]:
    def forward(self: nn.Module, x: Tensor, *, by: float = gain) -> Tensor:
        return x * by

    return forward


def listed(gains: tuple[float, ...]) -> Callable[..., Tensor]:
    def forward(self: nn.Module, x: Tensor, gains: tuple[float, ...] = gains) -> Tensor:
        return x * torch.tensor(gains)

    return forward


def reading(value: float) -> nn.Module:
    """Its forward pass reads a global name of this value, through a function that it calls."""
    names: dict[str, Any] = {"GAIN": value, "__name__": __name__}
    exec("def helper(x): return x * GAIN\ndef forward(self, x): return helper(x)", names)
    return kind(forward=names["forward"])


PAIRS: dict[str, tuple[Callable[[Any], nn.Module], Any, Any]] = {
    "class attribute": (lambda v: kind(sign=v), 1.0, -1.0),
    "inherited attribute": (lambda v: type("Child", (type(kind(sign=v)),), {"__module__": __name__})(), 1.0, -1.0),
    "property": (lambda v: kind(gain=property((lambda s: 1) if v else (lambda s: 2))), True, False),
    "static method": (lambda v: kind(f=staticmethod((lambda: 1) if v else (lambda: 2))), True, False),
    "class method": (lambda v: kind(f=classmethod((lambda c: 1) if v else (lambda c: 2))), True, False),
    "cached property": (lambda v: kind(f=functools.cached_property((lambda s: 1) if v else (lambda s: 2))), 1, 0),
    "keyword default": (lambda v: kind(forward=keyword(v)), 1.0, 2.0),
    "tuple default": (lambda v: kind(forward=listed(v)), (1.0, 2.0), (2.0, 1.0)),
    "no_grad": (lambda v: kind(forward=torch.no_grad()(keyword(v))), 1.0, 2.0),
    "autocast": (lambda v: kind(forward=torch.autocast("cpu", enabled=False)(keyword(v))), 1.0, 2.0),
    "autocast options": (lambda v: kind(forward=torch.autocast("cpu", enabled=v)(keyword(1.0))), True, False),
    "wrapped": (lambda v: kind(forward=functools.wraps(keyword(v))(keyword(0.0))), 1.0, 2.0),
    "lru_cache": (lambda v: Net(f=functools.lru_cache((lambda: 1) if v else (lambda: 2))), True, False),
    "global name": (reading, 1.0, 2.0),
    "np.float32": (lambda v: Net(gain=np.float32(v)), 1, 2),
    "array": (lambda v: Net(gain=np.full(3, v)), 1.0, 2.0),
    "array type": (lambda v: Net(gain=np.zeros(3, v)), "f4", "i4"),
    "set": (lambda v: Net(skip=v), {1}, {2}),
    "set of modules": (lambda v: Net(parts={constant(v)}), 1.0, 2.0),
    "enum": (lambda v: Net(act=v), Act.RELU, Act.TANH),
    "dataclass": (lambda v: Net(settings=Settings(v)), 1.0, 2.0),
    "slots": (lambda v: Net(settings=Slotted(v)), 1.0, 2.0),
    "integer keys": (lambda v: Net(gains={v: 2.0}), 0, 1),
    "true and one": (lambda v: Net(gain=v), True, 1),
    "number and its text": (lambda v: Net(gain=v), 1, "1"),
    "tuple and list": (lambda v: Net(gain=v), (1,), [1]),
    "tensor": (lambda v: Net(gain=torch.tensor(v)), [1.0, 2.0], [2.0, 1.0]),
    "sparse tensor": (lambda v: Net(gain=torch.tensor(v).to_sparse()), [1.0, 0.0], [0.0, 1.0]),
    "modules in a list": (lambda v: Net(parts=[constant(v)]), 1.0, 2.0),
    "module in a partial": (lambda v: Net(f=functools.partial(constant(v))), 1.0, 2.0),
    "builtin function": (lambda v: Net(act=v), torch.relu, torch.tanh),
    "method of a tensor": (lambda v: Net(act=v), torch.Tensor.relu, torch.Tensor.tanh),
    "bound builtin": (lambda v: Net(act=torch.tensor(v).mul), 1.0, 2.0),
    "class": (lambda v: Net(layer=v), nn.ReLU, nn.Tanh),
    "tensor in a hook": (lambda v: hooked(times(v)), torch.tensor([1.0, 0]), torch.tensor([0, 1.0])),
    "list in a hook": (lambda v: hooked(times(v)), [1.0, 0.0], [0.0, 1.0]),
    "method as a hook": (lambda v: hooked(Gain(v).hook), 1.0, 2.0),
    "hook with keywords": (lambda v: hooked(times(1.0), with_kwargs=v), True, False),
    "order of hooks": (lambda v: nn.Sequential(hooked(times(v)), hooked(times(3 - v))), 1.0, 2.0),
    "own method": (lambda v: (net := Net(), setattr(net, "act", (net.forward, net.eval)[v]))[0], 0, 1),
    "parametrisation": (lambda v: parametrizations.weight_norm(nn.Linear(2, 2), dim=v), 0, 1),
}


def modules(model: nn.Module) -> str:
    return json.dumps(list(Description().modules(model)))


@pytest.mark.parametrize("what", PAIRS)
def test_what_differs_is_told_apart_and_what_is_equal_is_not(what: str) -> None:
    make, one, other = PAIRS[what]
    assert modules(make(one)) == modules(make(one))
    assert modules(make(one)) != modules(make(other))


def test_an_autocast_function_is_described_alike_after_it_ran() -> None:
    net = kind(forward=torch.autocast("cpu", torch.bfloat16)(lambda self, x: x @ x))
    before = modules(net)
    net(torch.ones(2, 2))
    assert modules(net) == before


def test_what_does_not_matter_is_left_out() -> None:
    start = modules(Net(conv=nn.Conv2d(1, 1, 1)))
    other = Net(conv=nn.Conv2d(1, 1, 1)).train()
    other.conv.register_full_backward_hook(lambda *_: None).remove()
    lock = threading.Lock()
    other.register_load_state_dict_post_hook(lambda *_: lock.locked())
    other.conv._is_full_backward_hook = None
    assert modules(other) == start


def test_objects_that_hold_each_other_come_to_an_end() -> None:
    net = Net(inner=nn.Linear(2, 2))
    net.mine = [net]
    net.mine.append(net.mine)
    assert modules(net) == modules(net)


@pytest.mark.parametrize(
    "value", [threading.Lock(), (i for i in "ab"), torch.empty(2, device="meta"), {"a": [threading.Lock()]}]
)
def test_what_cannot_be_told_is_refused(value: object) -> None:
    with pytest.raises(UndescribableError):
        described(value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_torchscript_cannot_be_told() -> None:
    with pytest.raises(UndescribableError, match="ScriptModule"):
        modules(torch.jit.trace(nn.ReLU(), torch.ones(1)))


SCRIPT = """
import test_description as t, torch, timm
from torch import nn
torch.manual_seed(0)
net = t.Net(a={"x", "yy", "zzz"}, b=frozenset({"p", "q"}), c=t.Act.RELU, d=t.Settings(), e=[t.constant(1.0)],
    lstm=nn.LSTM(2, 2), f=lambda x: x in {"x", "yy", "zzz"}, vit=timm.create_model("vit_tiny_patch16_224"))
net.register_forward_hook(t.times([1.0]))
print(t.modules(net))
"""


@pytest.mark.slow
def test_two_processes_say_the_same() -> None:
    def run(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    first = run("1")
    assert len(first) > 1000
    assert first == run("2")

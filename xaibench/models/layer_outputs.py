"""Read what modules give during a forward pass, as maps (B, d, H, W), and leave nothing behind."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xaibench.errors import ModelError, unknown_name
from xaibench.models.class_slice import unsliced
from xaibench.models.copies import changing
from xaibench.models.layout import Layout
from xaibench.models.logits import first_item, forward_logits, held_logits

__all__ = [
    "Call",
    "Outputs",
    "evaluating",
    "forward_with_layers",
    "layer_module",
    "observe",
    "readable",
    "replaced",
    "tapped",
]

_evaluated: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()  # (open blocks, mode before them)


def layer_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule `name` ("layer1", "features.4"), or raise with the nearest valid name."""
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    raise unknown_name(f"layer of {type(model).__name__}", name, [n for n, _ in model.named_modules() if n])


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Within the block the models are in evaluation mode; then every module has its own mode back.

    Blocks of several threads may overlap: a module gets its mode back at the end of the last one.
    """
    modules = [module for model in models for module in model.modules()]
    with changing:
        for module in modules:
            blocks, training = _evaluated.get(module, (0, module.training))
            _evaluated[module] = blocks + 1, training
        for model in models:
            model.eval()
    try:
        yield
    finally:
        with changing:
            for module in modules:
                blocks, training = _evaluated.pop(module)
                if blocks > 1:
                    _evaluated[module] = blocks - 1, training
                else:
                    module.training = training


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, each forward pass of `model` fills the yielded dict: layer name -> output.

    Features at locations come as maps (B, d, H, W), whatever the layer gives. Of a tuple or list the first item counts:

    - tokens (B, P + H W, d) lose their P prefix tokens (class, distillation, registers). P is the model's
      `num_prefix_tokens`, which timm's models have; without it 0, 1 or 2, whichever leaves a grid of the images' shape
    - maps (B, H, W, d) with channels last are told by their square sides, for square images

    The model goes on with a copy of what is yielded: gradients with respect to it are those of the layer's output, and
    what works in place behind the layer (activations, residual sums) does not change it.
    Passes of other threads, and of copies of `model`, fill nothing and are left alone. The hooks are removed on the way
    out, also after an exception. Raises ModelError for an output that is no tensor, or not one of these.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> import torch
    >>> with tapped(net, ["0"]) as outputs:
    ...     _ = net(torch.zeros(4, 3))
    >>> outputs["0"].shape
    torch.Size([4, 2])
    """
    layout = Layout(model)
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _args: object, output: object) -> object:
        given = first_item(output)
        outputs[name] = layout.checked(name, given)
        back = layout.back(outputs[name], given)  # type: ignore[arg-type]
        return back if given is output else _with_first(output, back)

    found = {name: layer_module(model, name) for name in layers}
    hooks = [(layer.register_forward_hook, partial(record, name)) for name, layer in found.items()]
    with _hooked([(model.register_forward_pre_hook, layout.see), *hooks]):
        yield outputs


@contextmanager
def replaced(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block `model` goes on with `change(output)` in place of the layer's output, as in an intervention.

    change  maps (B, d, H, W) as `tapped` gives them -> maps of the same shape; prefix tokens stay as they are

    Threads, copies, removal of the hook and errors are as in `tapped`.
    """
    layout = Layout(model)

    def replace(_module: nn.Module, _args: object, output: object) -> object:
        given = first_item(output)
        maps = layout.checked(layer, given)
        changed = change(maps)
        back = changed if maps is given else layout.back(changed, given)  # type: ignore[arg-type]
        return back if given is output else _with_first(output, back)

    hook = (layer_module(model, layer).register_forward_hook, replace)
    with _hooked([(model.register_forward_pre_hook, layout.see), hook]):
        yield


@contextmanager
def _hooked(hooks: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Within the block the hooks are set: pairs of a module's method that registers one, and the hook.

    They act in this thread alone, and not on copies of the module that have come by them.
    """
    thread = threading.get_ident()

    def own(module: nn.Module, hook: Callable[..., Any]) -> Callable[..., Any]:
        def act(given: nn.Module, *rest: Any) -> Any:
            return hook(given, *rest) if given is module and threading.get_ident() == thread else None

        return act

    with changing:
        handles = [register(own(register.__self__, hook)) for register, hook in hooks]
    try:
        yield
    finally:
        with changing:
            for handle in handles:
                handle.remove()


def _with_first(items: Any, first: Tensor) -> Any:
    """A tuple or list with another first item."""
    made = [first, *items[1:]]
    return made if isinstance(items, list) else getattr(items, "_make", tuple)(made)


class Outputs(NamedTuple):
    """One forward pass: logits (N, K) and the maps (N, d, H, W) of the layers that were asked for."""

    logits: Tensor
    layers: dict[str, Tensor]


def forward_with_layers(model: nn.Module, x: Tensor, layers: tuple[str, ...]) -> Outputs:
    """Run `model` once; return its logits and the named layers' outputs, tokens as maps (see `tapped`)."""
    with tapped(unsliced(model), layers) as outputs:
        logits = forward_logits(model, x)
    unused = [name for name in layers if name not in outputs]
    if unused:
        raise ModelError(f"layer '{unused[0]}' takes no part in the forward pass: pair another layer")
    return Outputs(logits, outputs)


class Call(NamedTuple):
    """One call of a module within a forward pass.

    start, end  positions in time: a call within another one starts later and ends earlier
    input       a copy of its first argument as it was, None if that is no tensor
    output      as `tapped` gives it, None where it would refuse
    """

    name: str
    module: nn.Module
    start: int
    end: int
    input: Tensor | None
    output: Tensor | None


def observe(model: nn.Module, x: Tensor) -> list[Call]:
    """Run `model` on `x` once in evaluation mode, without gradients: every module's calls, in the order they ended."""
    layout = Layout(model)
    layout.see(model, (x,))
    clock = itertools.count()
    entered: dict[nn.Module, list[tuple[int, Tensor | None]]] = {}
    calls: list[Call] = []

    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        given = args[0].clone() if args and isinstance(args[0], Tensor) else None
        entered.setdefault(module, []).append((next(clock), given))

    def leave(name: str, module: nn.Module, _args: object, output: object) -> None:
        start, given = entered[module].pop()
        output = held_logits(output) if module is model else first_item(output)
        result = layout.map(output.clone()) if isinstance(output, Tensor) and layout.whole(output) else None
        calls.append(Call(name, module, start, next(clock), given, result))

    hooks: list[tuple[Any, Callable[..., Any]]] = []
    for name, module in model.named_modules():
        hooks += [(module.register_forward_pre_hook, enter), (module.register_forward_hook, partial(leave, name))]
    with _hooked(hooks), evaluating(model), torch.no_grad():
        model(x)
    return calls


def readable(calls: list[Call]) -> list[Call]:
    """The calls of modules that `tapped` can read, without the model itself and what lies within its attention.

    A module that is called several times counts where `tapped` would refuse none of its outputs. Queries, keys and
    values have the form of maps but are none.
    """
    inner = [call for call in calls if call.name]
    refused = {call.name for call in inner if call.output is None}
    attention = [call for call in inner if "att" in type(call.module).__name__.lower()]
    return [
        call
        for call in inner
        if call.name not in refused and not any(a.start < call.start and call.end < a.end for a in attention)
    ]

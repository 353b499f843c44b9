"""Read what modules give during a forward pass, as maps (B, d, H, W), and leave nothing behind."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from xaibench.errors import ModelError, unknown_name
from xaibench.models.class_slice import unsliced
from xaibench.models.copies import changing
from xaibench.models.logits import forward_logits, held_logits

__all__ = ["Call", "Outputs", "evaluating", "forward_with_layers", "layer_module", "observe", "tapped"]

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

    Features at locations come as maps (B, d, H, W), whatever the layer gives:

    - tokens (B, P + H W, d) lose their P prefix tokens (class, distillation, registers). P is the model's
      `num_prefix_tokens`, which timm's models have; without it 0 or 1, whichever leaves a grid of the images' shape
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
    layout = _Layout(model)
    outputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _args: object, output: object) -> Tensor:
        outputs[name] = layout.checked(name, output)
        return layout.back(outputs[name], output)  # type: ignore[arg-type]

    found = {name: layer_module(model, name) for name in layers}
    hooks = [(layer.register_forward_hook, partial(record, name)) for name, layer in found.items()]
    with _hooked([(model.register_forward_pre_hook, layout.see), *hooks]):
        yield outputs


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
    layout = _Layout(model)
    layout.see(model, (x,))
    clock = itertools.count()
    entered: dict[nn.Module, list[tuple[int, Tensor | None]]] = {}
    calls: list[Call] = []

    def enter(module: nn.Module, args: tuple[object, ...]) -> None:
        given = args[0].clone() if args and isinstance(args[0], Tensor) else None
        entered.setdefault(module, []).append((next(clock), given))

    def leave(name: str, module: nn.Module, _args: object, output: object) -> None:
        start, given = entered[module].pop()
        output = held_logits(output) if module is model else output
        result = layout.map(output.clone()) if isinstance(output, Tensor) else None
        calls.append(Call(name, module, start, next(clock), given, result))

    hooks: list[tuple[Any, Callable[..., Any]]] = []
    for name, module in model.named_modules():
        hooks += [(module.register_forward_pre_hook, enter), (module.register_forward_hook, partial(leave, name))]
    with _hooked(hooks), evaluating(model), torch.no_grad():
        model(x)
    return calls


class _Layout:
    """Turns what the layers of one model give into maps and back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.batch: int | None = None
        self.size = (1, 1)

    @cached_property
    def prefixes(self) -> tuple[int, int]:
        """Numbers of prefix tokens that are possible, the likelier first."""
        counts = (getattr(module, "num_prefix_tokens", None) for module in self.model.modules())
        return next(((count, 0) for count in counts if isinstance(count, int)), (0, 1))

    @cached_property
    def channels_last(self) -> bool:
        """Whether some of the model's maps are (B, H, W, d)."""
        return any(
            isinstance(module, SwinTransformer) or getattr(module, "output_fmt", None) == "NHWC"
            for module in self.model.modules()
        )

    def see(self, _model: nn.Module, args: tuple[object, ...]) -> None:
        """Take note of the images (B, C, H, W) of a forward pass."""
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            self.batch, self.size = args[0].shape[0], (args[0].shape[2], args[0].shape[3])

    def map(self, output: Tensor) -> Tensor | None:
        """A view of `output` as (B, d, H, W); itself if it has no locations; None where it cannot be told."""
        if output.ndim == 3:
            return self._grid(output)
        if output.ndim == 4:
            a, b, c = output.shape[1:]
            square = self.size[0] == self.size[1]
            if square and a == b != c:
                return output.permute(0, 3, 1, 2)
            if (a == b == c or not square) and self.channels_last:
                return None
        return output

    def back(self, maps: Tensor, output: Tensor) -> Tensor:
        """`output` rebuilt from its maps, in memory of its own."""
        if maps is output:
            return output.clone()
        if output.ndim == 4:
            return maps.permute(0, 2, 3, 1).clone()
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], dim=1)

    def checked(self, name: str, output: object) -> Tensor:
        """As `map`, with the reason where there is none."""
        if not isinstance(output, Tensor):
            raise ModelError(f"layer '{name}' returns a {type(output).__name__}, not a tensor: tap a layer inside it")
        shape = tuple(output.shape)
        if self.batch is not None and shape[:1] != (self.batch,):
            raise ModelError(
                f"layer '{name}' gives {shape} for {self.batch} images: it works on parts of them: "
                "pair the layer around it"
            )
        maps = self.map(output)
        if maps is not None:
            return maps
        if output.ndim == 4:
            raise ModelError(
                f"layer '{name}' gives {shape} in a model that keeps channels last, and which dimension holds them "
                "cannot be told: pair another layer, or use square images"
            )
        raise ModelError(
            f"layer '{name}' gives {shape[1]} tokens, which fill no grid of the images' shape behind "
            f"{' or '.join(map(str, sorted(set(self.prefixes))))} prefix tokens: pair another layer, or give the model "
            "the attribute num_prefix_tokens"
        )

    def _grid(self, tokens: Tensor) -> Tensor | None:
        height, width = self.size
        for prefix in self.prefixes:
            count = max(tokens.shape[1] - prefix, 0)
            rows = math.isqrt(count * height // width)
            if rows and count % rows == 0 and rows * width == count // rows * height:
                maps: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, count // rows))
                return maps
        return None

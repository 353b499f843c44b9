"""Read the outputs of named layers during a forward pass, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from xaibench.errors import ModelError, unknown_name

__all__ = ["layer_module", "tapped"]


def layer_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule `name` ("layer1", "features.4"), or raise with the nearest valid name."""
    modules = dict(model.named_modules())
    if not name or name not in modules:
        raise unknown_name(f"layer of {type(model).__name__}", name, [n for n in modules if n])
    return modules[name]


@contextmanager
def tapped(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, each forward pass of `model` fills the yielded dict: layer name -> output.

    The hooks are removed on the way out, also after an exception.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> import torch
    >>> with tapped(net, ["0"]) as outputs:
    ...     _ = net(torch.zeros(4, 3))
    >>> outputs["0"].shape
    torch.Size([4, 2])
    """
    outputs: dict[str, Tensor] = {}
    handles = []
    try:
        for name in dict.fromkeys(layers):

            def record(_module: nn.Module, _args: object, output: object, name: str = name) -> None:
                if not isinstance(output, Tensor):
                    raise ModelError(
                        f"layer '{name}' returns a {type(output).__name__}, not a tensor: tap a layer inside it"
                    )
                outputs[name] = output

            handles.append(layer_module(model, name).register_forward_hook(record))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

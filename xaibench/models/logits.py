"""The logits in what a model returns, whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from xaibench.errors import ModelError

__all__ = ["first_item", "forward_logits", "held_logits", "logits_in"]


def forward_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Run `model` once on x; return the logits (N, K) in its output, see `logits_in`."""
    return logits_in(model(x), model)


def logits_in(output: object, model: nn.Module) -> Tensor:
    """The logits (N, K) in what `model` returned. They are

    - the output itself
    - what it holds by the name "logits": a mapping, or an object with that attribute, as Hugging Face's ModelOutput and
      torchvision's GoogLeNetOutputs. All else that it holds is left alone
    - the first item of another tuple or list, unless a later one is a tensor of its shape, as auxiliary logits are

    Raises ModelError for anything else.
    """
    logits = held_logits(output)
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    when = " in training mode" if model.training else ""
    remedy = "build it with aux_logits=False, or wrap it" if _rivals(output) else "wrap it"
    raise ModelError(
        f"{type(model).__name__} returns {_described(output)}{when}, not logits (N, K): {remedy} so that it does"
    )


def held_logits(output: object) -> object:
    """What `output` holds for logits; itself where it holds none or which they are cannot be told."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if hasattr(output, "logits"):
        return output.logits
    return output if _rivals(output) else first_item(output)


def first_item(output: object) -> object:
    """The first item of a tuple or list that has one; anything else as it is."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _rivals(output: object) -> list[Tensor]:
    """The tensors in a tuple or list that have the shape of its first item."""
    if not isinstance(output, (tuple, list)) or not output or not isinstance(output[0], Tensor):
        return []
    return [item for item in output[1:] if isinstance(item, Tensor) and item.shape == output[0].shape]


def _described(output: object) -> str:
    kind, held = type(output).__name__, held_logits(output)
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if held is not output:
        return f"{kind} with {_described(held)} for logits"
    if rivals := _rivals(output):
        return f"{kind} of {1 + len(rivals)} tensors of shape {tuple(rivals[0].shape)}"
    if isinstance(output, Mapping):
        return f"{kind} without 'logits' ({', '.join(map(str, output)) or 'empty'})"
    return "None" if output is None else kind

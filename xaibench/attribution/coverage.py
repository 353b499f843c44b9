"""Which computations of a forward pass an LRP composite has a rule for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zennit.core import Composite

__all__ = ["Coverage"]


class Coverage(TorchDispatchMode):
    """Counts the operations of a forward pass that happen outside leaf modules with an LRP rule.

    Moving values about (views, slices, concatenation) needs no rule, nor do max-pooling, dropout and
    flattening: their gradient routes relevance as it should.
    """

    _FREE_MODULES = (
        *(
            nn.MaxPool1d,
            nn.MaxPool2d,
            nn.MaxPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
        *(nn.Flatten, nn.Unflatten, nn.Identity),
    )
    _FREE_OPERATIONS = frozenset(
        [
            "alias",
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "t",
            "transpose",
            "permute",
            "expand",
            "squeeze",
            "unsqueeze",
            "slice",
            "select",
            "split",
            "split_with_sizes",
            "unbind",
            "index",
            "index_select",
            "cat",
            "stack",
            "clone",
            "detach",
            "_to_copy",
            "copy_",
            "contiguous",
            "lift_fresh",
            "empty",
            "empty_like",
            "arange",
        ]
    )

    def __init__(self, model: nn.Module, composite: Composite) -> None:
        super().__init__()
        self.uncovered: Counter[tuple[str, str]] = Counter()
        self._stack: list[tuple[str, bool]] = []
        context: dict[Any, Any] = {}
        for name, module in model.named_modules():
            has_rule = composite.module_map(context, name, module) is not None
            leaf = next(module.children(), None) is None
            covered = leaf and (has_rule or isinstance(module, self._FREE_MODULES))
            entry = (type(module).__name__, covered)
            module.register_forward_pre_hook(lambda _m, _x, entry=entry: self._stack.append(entry), prepend=True)
            module.register_forward_hook(lambda _m, _x, _y: self._stack.pop() and None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not any(covered for _, covered in self._stack) and name not in self._FREE_OPERATIONS:
            self.uncovered[name.rstrip("_"), self._stack[-1][0] if self._stack else "the model"] += 1
        return func(*args, **(kwargs or {}))

"""Which computations of a network LRP has no rule for."""

from __future__ import annotations

import re
from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from zennit.core import Composite

__all__ = ["Coverage", "Trail"]

# Moving values about needs no rule, nor does max-pooling: their gradient takes relevance to where the values were.
_FREE_NODES = frozenset(
    {
        *("View", "UnsafeView", "ReshapeAlias", "Alias", "T", "Transpose", "Permute", "Expand", "Repeat", "Clone"),
        *("Squeeze", "Unsqueeze", "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Index", "IndexSelect"),
        *("Cat", "Stack", "Roll", "Flip", "Unfold", "Im2Col", "PixelShuffle", "PixelUnshuffle", "ToCopy"),
        *("ConstantPadNd", "ReflectionPad2D", "ReplicationPad2D", "MaxPool2DWithIndices", "MaxPool3DWithIndices"),
        *(
            "AdaptiveMaxPool2D",
            "AdaptiveMaxPool3D",
            "AccumulateGrad",
            "Pass",
            "Ruled",
            "Enter",
            "Absorb",
            "TaylorSoftmax",
        ),
    }
)


class Trail:
    """Finds the operations that relevance meets on its way from the logits to the input and that have no rule.

    What it does not meet needs none: how a gate or an attention weight came about.

    model  a private copy: the hooks that tell which module is running stay
    """

    def __init__(self, model: nn.Module) -> None:
        self.constants: list[tuple[Tensor, tuple[str, str]]] = []
        self._running: list[str] = []
        self._noted: dict[Any, tuple[str, str]] = {}
        for module in model.modules():
            entry = type(module).__name__
            module.register_forward_pre_hook(lambda _m, _x, entry=entry: self._running.append(entry), prepend=True)
            module.register_forward_hook(lambda _m, _x, _y: self._running.pop() and None, always_call=True)

    def note(self, result: Tensor, name: str, args: Any) -> None:
        """Remember that the function `name` made `result` of `args`."""
        made = name, self._place
        sources = {value.grad_fn for value in args if isinstance(value, Tensor)}
        nodes = [result.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in sources and node not in self._noted:
                self._noted[node] = made
                nodes += [source for source, _ in node.next_functions]

    def constant(self, value: Tensor | float, name: str) -> None:
        """Remember that the function `name` takes `value` for a constant."""
        self.constants.append((torch.as_tensor(value).detach().clone(), (f"{name} without gradients", self._place)))

    def changed_since(self, before: list[tuple[Tensor, tuple[str, str]]]) -> Counter[tuple[str, str]]:
        """How often (operation, kind of module around it) takes what is no constant for one: it was another `before`.

        before  the `constants` of a pass with other images
        """
        ended = torch.tensor(torch.nan), ("control flow", "the model")
        pairs = zip_longest(before, self.constants, fillvalue=ended)
        return Counter(made for (old, made), (new, _) in pairs if not torch.equal(old, new))

    @property
    def _place(self) -> str:
        return self._running[-1] if self._running else "the model"

    def missing_rules(self, logits: Tensor) -> Counter[tuple[str, str]]:
        """How often (operation, kind of module around it) has no rule in the graph that ends in `logits`."""
        missing: Counter[tuple[str, str]] = Counter()
        open_nodes, seen = [(logits.grad_fn, False)], set()
        while open_nodes:
            node, within_rule = open_nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            name = type(node).__name__.rpartition("Backward")[0] or type(node).__name__
            if name == "Leave":
                within_rule = True
            elif name == "Enter":
                within_rule = False
            elif not within_rule and name not in _FREE_NODES:
                missing[self._noted.get(node, (re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(), "the model"))] += 1
            open_nodes += [(source, within_rule) for source, _ in node.next_functions]
        return missing


class Coverage(TorchDispatchMode):
    """Counts the operations of a forward pass that happen outside leaf modules with one of zennit's rules.

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
        super().__init__()  # type: ignore[no-untyped-call]
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

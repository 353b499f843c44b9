"""A classifier behind global average pooling, asked cell by cell: logits at places of the last map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.errors import ConfigError, ModelError
from xaibench.models.class_slice import ClassSlice, unsliced
from xaibench.models.layer_outputs import Call, evaluating, observe
from xaibench.models.logits import forward_logits

__all__ = ["SCALES", "SpatialHead", "local_logits", "spatial_head"]

SCALES = ((1,), (1, 2), (1, 4), (1, 2, 4))
"""What `local_logits` takes as scales: sides of grids."""

_PASSIVE = (nn.Sequential, nn.Identity, nn.Dropout, nn.Flatten)


@dataclass(frozen=True, eq=False)
class SpatialHead:
    """What a classifier does after it has averaged its last map over locations. Find it with `spatial_head`.

    layer     name of the module that gives the map (B, d, H, W), for `forward_with_layers`
    channels  d
    rest      the modules behind the pooling, in order, each with the number of dimensions of its input: the model's
              own, hence always with its current weights
    chosen    the class slice around the model, if there is one
    """

    layer: str
    channels: int
    rest: tuple[tuple[nn.Module, int], ...]
    chosen: ClassSlice | None

    def cells(self, pooled: Tensor) -> Tensor:
        """Logits of pooled vectors: (M, d) -> (M, K), differentiable in both the vectors and the model's weights.

        Whatever the model's mode, batch norm uses its running statistics and leaves them alone, and dropout is off:
        a cell's logits depend on nothing but the cell.
        """
        values = pooled
        with evaluating(*(module for module, _ in self.rest)):
            for module, ndim in self.rest:
                values = values.flatten(1) if ndim == 2 else values.flatten(1)[:, :, None, None]
                values = module(values)
        values = values.flatten(1)
        return values if self.chosen is None else values[:, self.chosen.indices]

    @property
    def weight(self) -> Tensor | None:
        """(K, d) where the rest is one linear layer, else None. Part of the model, not a copy."""
        return None if self._linear is None else self._slice(self._linear.weight)

    @property
    def bias(self) -> Tensor | None:
        """(K,) where the rest is one linear layer with a bias, else None. Part of the model, not a copy."""
        return None if self._linear is None or self._linear.bias is None else self._slice(self._linear.bias)

    @property
    def _linear(self) -> nn.Linear | None:
        parts = [m for top, _ in self.rest for m in (top.modules() if isinstance(top, nn.Sequential) else [top])]
        active = [module for module in parts if not isinstance(module, _PASSIVE)]
        return active[0] if len(active) == 1 and isinstance(active[0], nn.Linear) else None

    def _slice(self, values: Tensor) -> Tensor:
        return values if self.chosen is None else values[self.chosen.indices]

    def __repr__(self) -> str:
        rest = ", ".join(type(module).__name__ for module, _ in self.rest)
        return f"SpatialHead({self.layer}, d={self.channels}, [{rest}])"


def spatial_head(model: nn.Module, x: Tensor) -> SpatialHead:
    """Find the global average pooling of `model` and what follows it, by watching it work on x (B, C, H, W).

    The map is the one whose mean over locations is what the first of the trailing modules that see only vectors gets;
    those modules applied to that mean must give the model's logits (relative 1e-4). So every model qualifies whose
    modules after the pooling follow one another: ResNets, MobileNets, EfficientNets, SqueezeNets (nothing follows
    there: the map has a channel a class), each also sliced to some classes.

    Where x is constant, noise of its shape is used. The model is left as it was. Raises ModelError for a model without
    such a head (a ViT with a class token, a VGG) and for images so small that the last map is 1x1.
    """
    network = unsliced(model)
    x = x[:2]
    if bool((x == x.flatten()[0]).all()):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    calls = observe(network, x)
    rest = _trailing(calls)
    layer = _averaged(calls, rest)
    if layer is None and _last_map_is_one_location(calls):
        raise ModelError(
            f"the last map of {type(network).__name__} is 1x1 for {x.shape[2]}x{x.shape[3]} images and has no cells: "
            "use larger images or a method without local logits"
        )
    if layer is not None and layer.output is not None:
        chosen = model if isinstance(model, ClassSlice) else None
        modules = tuple((call.module, call.input.ndim) for call in rest if call.input is not None)
        head = SpatialHead(layer.name, layer.output.shape[1], modules, chosen)
        if _agrees(head, model, x, layer.output):
            return head
    raise ModelError(
        f"{type(network).__name__} has no global average pooling followed by a linear head "
        "(modules that, applied to the mean of a map, give its logits): use a method without local logits"
    )


def local_logits(
    maps: Tensor, head: SpatialHead, scales: tuple[int, ...] = (1, 2, 4), *, exact_global: bool = False
) -> Tensor:
    """The head's logits at the cells of coarse grids over a map: (B, d, H, W) -> (B, K, P).

    The map is average-pooled to 4x4 cells, the 2x2 cells and the single one from those 4x4. Cells come in the order of
    the scales, row by row: P = 1, 5, 17, 21 for (1,), (1, 2), (1, 4), (1, 2, 4).

    exact_global  take the single cell from the map itself: the model's own logits in evaluation mode, for every size.
                  Without it they differ where a side is none of 1, 2 or a multiple of 4: windows of 4x4 then overlap

    Where a side is below 4, cells repeat: a 2x2 map gives each of its locations four times.
    Raises ConfigError for other scales. Source: SDD, CVPR 2024.
    """
    if scales not in SCALES:
        raise ConfigError(f"scales must be one of {', '.join(map(str, SCALES))}, got {scales}")
    if maps.ndim != 4 or maps.shape[1] != head.channels:
        raise ConfigError(
            f"maps must be (B, {head.channels}, H, W), got {tuple(maps.shape)}: give those of layer '{head.layer}'"
        )
    grid = F.adaptive_avg_pool2d(maps, 4)
    pooled = {1: grid.mean((2, 3), keepdim=True), 2: F.avg_pool2d(grid, 2), 4: grid}
    if exact_global:
        pooled[1] = maps.mean((2, 3), keepdim=True)
    vectors = torch.cat([pooled[scale].flatten(2) for scale in scales], dim=2)
    b, _, p = vectors.shape
    logits = head.cells(vectors.transpose(1, 2).flatten(0, 1))
    return logits.view(b, p, -1).transpose(1, 2)


def _trailing(calls: list[Call]) -> list[Call]:
    """The outermost modules that ran after the last one that saw a map, in order."""
    leaves = [call for call in calls if next(call.module.children(), None) is None]
    last = max((call.end for call in leaves if not _is_vector(call.input)), default=-1)
    after = [call for call in calls if call.start > last and _is_vector(call.input) and _is_vector(call.output)]
    return [call for call in after if not any(o.start < call.start and call.end < o.end for o in after)]


def _averaged(calls: list[Call], rest: list[Call]) -> Call | None:
    """The outermost module that gives a map whose mean over locations the first of `rest` gets, or is the logits."""
    pooled = rest[0].input if rest else calls[-1].output
    if pooled is None:
        return None
    pooled = pooled.flatten(1)
    found = [
        call
        for call in {call.name: call for call in calls}.values()
        if call.output is not None
        and call.output.shape[:2] == pooled.shape
        and call.output.shape[2:].numel() > 1
        and _close(call.output.mean((2, 3)), pooled)
    ]
    return min(found, key=lambda call: (call.name.count("."), -call.end), default=None)


def _agrees(head: SpatialHead, model: nn.Module, x: Tensor, maps: Tensor) -> bool:
    with torch.no_grad(), evaluating(model):
        try:
            return _close(head.cells(maps.mean((2, 3))), forward_logits(model, x))
        except RuntimeError:  # modules that do not follow one another, such as two parallel classifiers
            return False


def _close(have: Tensor, want: Tensor) -> bool:
    return have.shape == want.shape and bool((have - want).abs().max() <= 1e-4 * want.abs().max())


def _is_vector(value: Tensor | None) -> bool:
    return value is not None and (value.ndim == 2 or (value.ndim == 4 and value.shape[2:] == (1, 1)))


def _last_map_is_one_location(calls: list[Call]) -> bool:
    """Whether the last convolution wider than 1x1 gives a single location."""
    wide = [call for call in calls if isinstance(call.module, nn.Conv2d) and max(call.module.kernel_size) > 1]
    return bool(wide) and wide[-1].output is not None and _is_vector(wide[-1].output)

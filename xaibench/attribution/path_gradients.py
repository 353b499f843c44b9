"""Gradients at nodes of straight paths: each is taken once, as long as there is room to keep it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Differentiate", "PathGradients"]

Differentiate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (P, C, H, W), image (P,) that each belongs to) -> f there (P,) and its gradient (P, C, H, W)."""


class PathGradients:
    """f and its gradient at nodes x - (1 - place) * direction of paths.

    x          (N, C, H, W), where the paths end
    direction  (S N, C, H, W), of each path
    image_of   (S N,), the image that each path ends at
    points     how many points `differentiate` gets at once
    room       how many gradients are kept at most

    path, place  of each node: int64, float64
    values       f at each node: float64, NaN as long as nobody has asked for its gradient
    """

    def __init__(
        self, differentiate: Differentiate, x: Tensor, direction: Tensor, image_of: Tensor, points: int, room: int
    ) -> None:
        self.differentiate, self.x, self.direction, self.image_of = differentiate, x, direction, image_of
        self.points, self.room = points, room
        self.path = image_of.new_empty(0)
        self.place = torch.empty(0, dtype=torch.float64, device=x.device)
        self.values = torch.empty_like(self.place)
        self._slot = image_of.new_empty(0)  # where each node's gradient is kept, -1: nowhere
        self._free = image_of.new_empty(0)  # slots
        self._blocks: list[Tensor] = []  # the slots, one block after the other

    @property
    def ample(self) -> bool:
        """Whether there is room for the gradients at all nodes."""
        return len(self.path) <= self.room

    def add(self, path: Tensor, place: Tensor) -> Tensor:
        """Further nodes; their numbers."""
        first = len(self.path)
        self.path, self.place = torch.cat([self.path, path]), torch.cat([self.place, place])
        self.values = torch.cat([self.values, torch.full_like(place, torch.nan)])
        self._slot = torch.cat([self._slot, torch.full_like(path, -1)])
        return first + torch.arange(len(path), device=path.device)

    def at(self, *nodes: Tensor) -> list[Tensor]:
        """The gradients at nodes (M,), for each argument: (M, C, H, W)."""
        wanted = torch.unique(torch.cat(nodes))
        missing = wanted[self._slot[wanted] < 0]
        loose = [self._take(part) for part in missing.split(self.points)]
        rest = torch.cat([part for part, _ in loose]) if loose else missing
        slopes = torch.cat([part for _, part in loose]) if len(rest) else self.x[:0]
        return [self._gathered(part, rest, slopes) for part in nodes]

    def forget(self, nodes: Tensor, worth: Tensor, room: int) -> None:
        """Make room for that many gradients, if they are many, at the cost of nodes that are worth least.

        nodes  (..., M), with the worth (M,) of each
        """
        held = (self._slot >= 0).nonzero().flatten()
        excess = len(held) + room - self.room
        if excess <= 0:
            return
        worths = torch.zeros_like(self.place)
        worths.scatter_reduce_(0, nodes.flatten(), worth.nan_to_num().expand(nodes.shape).flatten(), "amax")
        gone = held[worths[held].argsort(stable=True)[:excess]]
        self._free = torch.cat([self._free, self._slot[gone]])
        self._slot[gone] = -1

    def _take(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Take gradients and keep as many as there is room for; those that are not kept, with their nodes."""
        path = self.path[nodes]
        image, left = self.image_of[path], (1 - self.place[nodes]).to(self.x)
        values, slopes = self.differentiate(self.x[image] - left[:, None, None, None] * self.direction[path], image)
        self.values[nodes] = values.detach().double()
        slopes = slopes.detach()
        size = sum(map(len, self._blocks))
        if len(self._free) < len(nodes) and size < self.room:  # as large as all the others: they are few
            more = min(max(size, len(nodes)), self.room - size)
            self._blocks.append(self.x.new_empty(more, *self.x.shape[1:]))
            self._free = torch.cat([self._free, size + torch.arange(more, device=self._free.device)])
        slots, self._free = self._free[: len(nodes)], self._free[len(nodes) :]
        count, first = len(slots), 0
        self._slot[nodes[:count]] = slots
        for block in self._blocks:
            here = (slots >= first) & (slots < first + len(block))
            block[slots[here] - first] = slopes[:count][here]
            first += len(block)
        return nodes[count:], slopes[count:]

    def _gathered(self, nodes: Tensor, loose: Tensor, slopes: Tensor) -> Tensor:
        """The gradients at `nodes`, from the blocks and from `slopes`, those at the nodes `loose` in order."""
        result = self.x.new_empty(len(nodes), *self.x.shape[1:])
        slots, first = self._slot[nodes], 0
        for block in self._blocks:
            here = ((slots >= first) & (slots < first + len(block))).nonzero().flatten()
            result[here] = block[slots[here] - first]
            first += len(block)
        here = (slots < 0).nonzero().flatten()
        if len(here):
            result[here] = slopes[torch.searchsorted(loose, nodes[here])]
        return result

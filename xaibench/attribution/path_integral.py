"""The mean gradient along straight paths, to a given accuracy: an adaptive trapezoid rule for many images at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FIRST_NODES", "Differentiate", "PathIntegral", "integrate"]

_ROUNDING = 1e-6  # of f: what a map may miss of f(x) - f(b) by the rounding of float32

FIRST_NODES = 33

# An image's intervals of which at most this share is halved in one round: more rounds place nodes better, fewer make
# fuller batches.
ROUND_SHARE = 1 / 4

Differentiate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (P, C, H, W), image (P,) that each belongs to) -> f there (P,) and its gradient (P, C, H, W)."""


class PathIntegral(NamedTuple):
    """What `integrate` gives for N images.

    value       (N, C, H, W): mean over the S paths of (x - b) * integral over a in [0, 1] of grad f at b + a (x - b)
    error       (N,) float64: the estimated relative L2 error of `value` summed over its channels; NaN where the
                gradients are not finite
    gradients   (N,) int64: points at which the gradient was taken
    difference  (N,) float64: f(x) - mean of f(b)
    """

    value: Tensor
    error: Tensor
    gradients: Tensor
    difference: Tensor


class _Intervals(NamedTuple):
    """Parts of the paths: the path, the nodes at both ends, the place in [0, 1] where it begins, its width."""

    path: Tensor
    left: Tensor
    right: Tensor
    place: Tensor
    width: Tensor

    def halves(self, middle: Tensor) -> tuple[_Intervals, _Intervals]:
        """Both halves, which meet at the nodes `middle`."""
        half = self.width / 2
        return (
            self._replace(right=middle, width=half),
            self._replace(left=middle, place=self.place + half, width=half),
        )


def integrate(
    differentiate: Differentiate,
    x: Tensor,
    starts: Tensor,
    tolerance: float,
    budget: int,
    points: int,
    residual: float = math.inf,
) -> PathIntegral:
    """Integrate the gradient of f from each of `starts` b (S, N, C, H, W) to x (N, C, H, W), and average over S.

    The trapezoid rule on a/32, whose intervals are then halved where they add most to the error. With
    v(a) = (x - b) * grad f(b + a (x - b)), channels summed, and h the width of an interval,

        error^2 = sum over the intervals of all paths of (h/S)^2 |v_right - v_left|^2 / 12, relative to |value|^2

    which is the expected square error for a piecewise linear f whose gradient jumps once, at a place that is uniform
    within the interval. An image's intervals are halved until error <= tolerance and |sum value - difference| <=
    residual * sum |value|, or until `budget` gradients for each of its paths are used up. No point is asked for twice;
    the paths of an image share their end.

    points  how many points `differentiate` gets at once

    What the maps owe to `points`, and to which images share a batch, is the rounding of `differentiate` alone.
    """
    s, n = starts.shape[:2]
    direction = (x - starts).flatten(0, 1)
    image_of = torch.arange(n, device=x.device).repeat(s)  # of each path
    intervals, nodes = _first(n, s, x)
    where = torch.cat([torch.ones(n, device=x.device, dtype=x.dtype), nodes.place])
    which = torch.cat([torch.arange(n, device=x.device), nodes.path])  # the end of each image lies on its first path
    f, slopes = _at(differentiate, x, direction, image_of, which, where, points)
    starts_at = n + torch.arange(s * n, device=x.device) * (FIRST_NODES - 1)
    difference = f[:n].double() - f[starts_at].double().unflatten(0, (s, n)).mean(dim=0)
    gradients = torch.bincount(image_of[which], minlength=n)

    value = torch.zeros_like(x)
    weight = intervals.width / (2 * s)
    for rows in torch.arange(len(weight), device=x.device).split(points):
        part = _Intervals(*(column[rows] for column in intervals))
        both = slopes[part.left] + slopes[part.right]
        value.index_add_(0, image_of[part.path], direction[part.path] * both * weight[rows, None, None, None])
    squares = _square_errors(intervals, direction, slopes, points) / s**2
    rounding = _ROUNDING * torch.maximum(f[:n].abs(), difference.abs().to(f)).double()
    while True:
        image = image_of[intervals.path]
        total = torch.zeros(n, device=x.device, dtype=torch.float64).index_add_(0, image, squares)
        heatmaps = value.sum(dim=1).flatten(1).double()
        size = heatmaps.square().sum(dim=1)
        goal = tolerance**2 * size
        owed = (heatmaps.sum(dim=1) - difference).abs()
        incomplete = owed > torch.maximum(residual * heatmaps.abs().sum(dim=1), rounding)
        # Where no jump was met although some must be there, intervals are halved by their width alone.
        blind = incomplete & (total == 0)
        order = torch.where(blind[image], intervals.width.double().square(), squares)
        whole = torch.where(blind, torch.zeros_like(total).index_add_(0, image, order), total)
        goal = torch.where(incomplete, torch.minimum(goal, whole / 4), goal)
        goal = torch.where(blind, whole / 4, goal)
        room = torch.where(whole > goal, budget * s - gradients, 0)
        chosen = _worst(order, image, whole, goal, room)
        if not bool(chosen.any()):
            error = torch.where(total == 0, total, (total / size).sqrt())
            return PathIntegral(value, error, gradients, difference)
        split = _Intervals(*(column[chosen] for column in intervals))
        _, middle = _at(differentiate, x, direction, image_of, split.path, split.place + split.width / 2, points)
        for rows in torch.arange(len(middle), device=x.device).split(points):
            part = _Intervals(*(column[rows] for column in split))
            bend = 2 * middle[rows] - slopes[part.left] - slopes[part.right]
            change = direction[part.path] * bend * (part.width / (4 * s))[:, None, None, None]
            value.index_add_(0, image_of[part.path], change)
        gradients = gradients + torch.bincount(image_of[split.path], minlength=n)
        halves = split.halves(len(slopes) + torch.arange(len(middle), device=x.device))
        slopes = torch.cat([slopes, middle])
        new = _Intervals(*(torch.cat(columns) for columns in zip(*halves)))
        fresh = _square_errors(new, direction, slopes, points) / s**2
        intervals = _Intervals(*(torch.cat([old[~chosen], more]) for old, more in zip(intervals, new)))
        squares = torch.cat([squares[~chosen], fresh])


class _Nodes(NamedTuple):
    path: Tensor
    place: Tensor


def _first(n: int, s: int, x: Tensor) -> tuple[_Intervals, _Nodes]:
    """The intervals of a/32 on the paths of n images, and their nodes; nodes 0..n-1 are the ends, which come apart."""
    count = FIRST_NODES - 1
    path = torch.arange(s * n, device=x.device).repeat_interleave(count)
    place = (torch.arange(count, device=x.device, dtype=x.dtype) / count).repeat(s * n)
    left = n + torch.arange(s * n * count, device=x.device)
    last = torch.arange(s * n * count, device=x.device) % count == count - 1
    right = torch.where(last, path % n, left + 1)
    return _Intervals(path, left, right, place, torch.full_like(place, 1 / count)), _Nodes(path, place)


def _at(
    differentiate: Differentiate,
    x: Tensor,
    direction: Tensor,
    image_of: Tensor,
    path: Tensor,
    place: Tensor,
    points: int,
) -> tuple[Tensor, Tensor]:
    """f and its gradient at x - (1 - place) * direction of each path, `points` at a time."""
    values, slopes = [], []
    for rows in torch.arange(len(path), device=x.device).split(points):
        at = x[image_of[path[rows]]] - (1 - place[rows])[:, None, None, None] * direction[path[rows]]
        value, slope = differentiate(at, image_of[path[rows]])
        values.append(value.detach())
        slopes.append(slope.detach())
    return torch.cat(values), torch.cat(slopes)


def _square_errors(intervals: _Intervals, direction: Tensor, slopes: Tensor, points: int) -> Tensor:
    """h^2 |v_right - v_left|^2 / 12 of each interval: float64."""
    parts = []
    for rows in torch.arange(len(intervals.path), device=slopes.device).split(points):
        jump = slopes[intervals.right[rows]] - slopes[intervals.left[rows]]
        jump = (direction[intervals.path[rows]] * jump).sum(dim=1)
        parts.append(jump.flatten(1).double().square().sum(dim=1))
    return intervals.width.double().square() * torch.cat(parts) / 12


def _worst(squares: Tensor, image: Tensor, total: Tensor, goal: Tensor, room: Tensor) -> Tensor:
    """Which intervals to halve: of each image the worst ones, in number what brings it to its goal if all goes well.

    Halving an interval with one jump quarters its square error. Chosen are no intervals that have no more than their
    fair share of the error that the goal allows, no more than `room` (N,) of an image, and at most a quarter of all.
    """
    counts = torch.bincount(image, minlength=len(total))
    share = (squares / total[image]).nan_to_num(0, 0, 0)  # of one image each, so that none rounds away another's
    order = torch.argsort(share, descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]
    owner, first = image[order], (counts.cumsum(0) - counts)[image[order]]
    rank = torch.arange(len(order), device=order.device) - first
    before = share[order].cumsum(0) - share[order]
    before = before - before[first]
    most = torch.minimum(room, (ROUND_SHARE * counts).long().clamp(min=1))
    chosen = torch.zeros_like(image, dtype=torch.bool)
    allowed = (goal / total)[owner]
    needed = (1 - 0.75 * before > allowed) & (share[order] * counts[owner] > allowed)
    chosen[order] = needed & (rank < most[owner])
    return chosen

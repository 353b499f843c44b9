"""The mean gradient along straight paths, to a given accuracy: an adaptive trapezoid rule for many images at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from xaibench.attribution.path_gradients import Differentiate, PathGradients

__all__ = ["FIRST_NODES", "PathIntegral", "integrate"]

FIRST_NODES = 33

# An image's intervals of which at most this share is halved in one round: more rounds place nodes better, fewer make
# fuller batches.
ROUND_SHARE = 1 / 4


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
    """Parts of the paths, each one of two siblings that meet in a node.

    path    that it is a part of
    outer   its own other end, a node
    inner   the node in which it meets its sibling
    far     the sibling's other end
    width   of each of the two
    jump    what is expected of its square error if the gradient jumps, see `integrate`
    bend    the norm of its share of the error if the gradient bends
    """

    path: Tensor
    outer: Tensor
    inner: Tensor
    far: Tensor
    width: Tensor
    jump: Tensor
    bend: Tensor

    def take(self, rows: Tensor) -> _Intervals:
        """The intervals at `rows`."""
        return _Intervals(*(column[rows] for column in self))


def integrate(
    differentiate: Differentiate,
    x: Tensor,
    starts: Tensor,
    tolerance: float,
    budget: int,
    points: int,
    residual: float = math.inf,
    rounding: Tensor | float = 0.0,
    kept: int | None = None,
) -> PathIntegral:
    """Integrate the gradient of f from each of `starts` b (S, N, C, H, W) to x (N, C, H, W), and average over S.

    The trapezoid rule on a/32, whose intervals are then halved where they add most to the error. With
    v(a) = (x - b) * grad f(b + a (x - b)), channels summed, d_1 = v_l - v_m and d_2 = v_r - v_m of two sibling
    intervals of width h between the nodes l, m, r, and D = d_1 + d_2, the square error is taken for

        error^2 = sum of (h/S)^2 |d|^2 q / 12 + |sum of (h/S) min(|D|, |d|) sign(D) / 12|^2, relative to |value|^2

    over all intervals, d being its own. Where the gradient jumps (a kink of f), D is the d of the interval in which it
    does: the first sum is the expected square error for a place that is uniform within it. Where it bends (f is smooth)
    D is far smaller than both, and a quarter of D', which the siblings' parent has from its own sibling; so

        q = |D|^2 / (|d_1|^2 + |d_2|^2) * min(1, |4 D - D'|^2 / |3 D|^2)

    leaves out of the first sum what is smooth. The vector within the second is the trapezoid rule's error on a smooth
    function, h^3 v'' / 12 an interval, which adds up with its sign, pixel by pixel; the minimum keeps out of it what is
    a jump of the sibling.

    An image's intervals are halved until error <= tolerance and |sum value - difference| <= residual * sum |value|, or
    until `budget` gradients for each of its paths are used up. The paths of an image share their end.

    points    how many points `differentiate` gets at once
    rounding  (N,) or one for all: what is too little to count of sum value - difference
    kept      how many gradients are kept at most; others that are needed again are taken again. None: all, so that
              no point is asked for twice

    What the maps owe to `points` and `kept`, and to which images share a batch, is the rounding of `differentiate`.
    """
    s, n = starts.shape[:2]
    direction = (x - starts).flatten(0, 1)
    image_of = torch.arange(n, device=x.device).repeat(s)  # of each path
    gradients = PathGradients(differentiate, x, direction, image_of, points, budget * s * n if kept is None else kept)
    state = _State(gradients, x.new_zeros(n, *x.shape[1:]), s)
    intervals = state.halved(state.siblings(*_first(n, s, gradients)))
    f = gradients.values
    starts_at = n + torch.arange(s * n, device=x.device) * (FIRST_NODES // 2)
    difference = f[:n] - f[starts_at].unflatten(0, (s, n)).mean(dim=0)
    rounding = torch.as_tensor(rounding, dtype=torch.float64, device=x.device)
    while True:
        image = image_of[intervals.path]
        squares = _squares(intervals, image, state.bent)
        total = torch.zeros(n, device=x.device, dtype=torch.float64).index_add_(0, image, squares)
        heatmaps = state.value.sum(dim=1).flatten(1).double()
        size = heatmaps.square().sum(dim=1)
        goal = tolerance**2 * size
        owed = (heatmaps.sum(dim=1) - difference).abs()
        incomplete = owed > torch.maximum(residual * heatmaps.abs().sum(dim=1), rounding)
        # Where no jump was met although some must be there, intervals are halved by their width alone.
        blind = incomplete & (total == 0)
        order = torch.where(blind[image], intervals.width.square(), squares)
        whole = torch.where(blind, torch.zeros_like(total).index_add_(0, image, order), total)
        goal = torch.where(incomplete, torch.minimum(goal, whole / 4), goal)
        goal = torch.where(blind, whole / 4, goal)
        taken = torch.bincount(image_of[gradients.path], minlength=n)
        room = torch.where(whole > goal, budget * s - taken, 0)
        chosen = _worst(order, image, whole, goal, room)
        if not bool(chosen.any()):
            error = torch.where(total == 0, total, (total / size).sqrt())
            return PathIntegral(state.value, error, taken, difference)
        split = intervals.take(chosen)
        nodes = torch.stack([intervals.outer, intervals.inner, intervals.far])
        gradients.forget(nodes, order / whole[image], len(split.path))
        intervals = _Intervals(*(map(torch.cat, zip(intervals.take(~chosen), state.halved(split)))))


class _State:
    """The integral so far, and the error that a smooth gradient would have made.

    value  (N, C, H, W)
    bent   (N, H, W): the second sum of `integrate`'s error, of each image
    s      paths of an image
    """

    def __init__(self, gradients: PathGradients, value: Tensor, s: int) -> None:
        self.gradients, self.value, self.s = gradients, value, s
        self.bent = value.new_zeros(len(value), *value.shape[2:])

    def halved(self, intervals: _Intervals) -> _Intervals:
        """The halves of intervals, which count no longer."""
        g = self.gradients
        middle = g.add(intervals.path, (g.place[intervals.outer] + g.place[intervals.inner]) / 2)
        path, outer, inner, far, width, *_ = intervals
        return self.siblings(path, outer, middle, inner, width / 2, far)

    def siblings(
        self, path: Tensor, left: Tensor, middle: Tensor, right: Tensor, width: Tensor, beyond: Tensor | None = None
    ) -> _Intervals:
        """The intervals of this `width` from the nodes `left` and `right` to `middle`; they count from now on.

        beyond  None where nothing counts there yet; or the other ends of what lies beyond `right`, the siblings of the
                intervals from `left` to `right`, which count no longer
        """
        g = self.gradients
        # New nodes are one of each three or four, or two of three; the others are known if there is room for them.
        each = max(1, (g.points - 1) // 2 if beyond is None else g.points if g.ample else g.points // 4)
        jumps, bends = [], []
        for rows in torch.arange(len(path), device=path.device).split(each):
            along, image, h = g.direction[path[rows]], g.image_of[path[rows]], width[rows] / self.s
            ends = (left, middle, right) if beyond is None else (left, middle, right, beyond)
            at_left, at_middle, at_right, *at_beyond = g.at(*(end[rows] for end in ends))
            first, second = ((along * (end - at_middle)).sum(dim=1) for end in (at_left, at_right))
            sharp = first + second
            share = _ratio(sharp, first, second)
            twelfth = (h / 12).to(self.value)[:, None, None]
            for end in at_beyond:
                before = (along * (at_left + end - 2 * at_right)).sum(dim=1)
                share = share * _ratio(4 * sharp - before, 3 * sharp).clamp(max=1)
                self.bent.index_add_(0, image, -2 * twelfth * _limited(before, first - second))
            for own in (first, second):
                jumps.append(h.square() * _squares_of(own) * share / 12)
                bend = twelfth * _limited(sharp, own)
                bends.append(_squares_of(bend).sqrt())
                self.bent.index_add_(0, image, bend)
            change = at_middle.add_(at_left.add_(at_right), alpha=0.5 if beyond is None else -0.5)
            self.value.index_add_(0, image, change.mul_(along).mul_(h.to(self.value)[:, None, None, None]))
        jump, bend = (torch.cat([*parts[::2], *parts[1::2]]) for parts in (jumps, bends))
        outer, far = torch.cat([left, right]), torch.cat([right, left])
        return _Intervals(path.repeat(2), outer, middle.repeat(2), far, width.repeat(2), jump, bend)


def _limited(sharp: Tensor, own: Tensor) -> Tensor:
    return sharp.sign() * torch.minimum(sharp.abs(), own.abs())


def _ratio(one: Tensor, *others: Tensor) -> Tensor:
    """|one|^2 / the sum of |other|^2, of each of (M, H, W); 1 for 0 / 0."""
    return (_squares_of(one) / sum(map(_squares_of, others))).nan_to_num(1.0)


def _squares_of(heatmaps: Tensor) -> Tensor:
    """|.|^2 of each of (M, H, W): float64."""
    return heatmaps.flatten(1).double().square().sum(dim=1)


def _squares(intervals: _Intervals, image: Tensor, bent: Tensor) -> Tensor:
    """What each interval adds to the square error of its image: the bends' common part is divided among them."""
    total = torch.zeros(len(bent), device=bent.device, dtype=torch.float64).index_add_(0, image, intervals.bend)
    share = torch.where(intervals.bend == 0, 0, intervals.bend / total[image])
    return intervals.jump + share * _squares_of(bent)[image]


def _first(n: int, s: int, gradients: PathGradients) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The intervals of a/16 on the paths of n images, as `_State.siblings` takes them.

    Nodes 0..n-1 are the images themselves, the ends of their paths. They belong to the first path of each.
    """
    count, device = FIRST_NODES // 2, gradients.path.device
    gradients.add(torch.arange(n, device=device), torch.ones(n, dtype=torch.float64, device=device))
    path = torch.arange(s * n, device=device).repeat_interleave(count)
    nodes = gradients.add(path, (torch.arange(count, device=device, dtype=torch.float64) / count).repeat(s * n))
    left, middle = nodes[::2], nodes[1::2]
    last = torch.arange(len(left), device=device) % (count // 2) == count // 2 - 1
    right = torch.where(last, path[::2] % n, middle + 1)
    return path[::2], left, middle, right, torch.full_like(gradients.place[left], 1 / count)


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

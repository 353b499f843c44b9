"""How good a model's heatmaps are: does its answer fall faster in their order of patches than in a random one?"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.similarity.flipping import flip_curve
from xaibench.similarity.patch_order import Order, patch_order, patch_side, random_order
from xaibench.validation import checked

__all__ = ["flip_area", "flipping_gap", "random_area"]

Array = npt.NDArray[np.float64]


@checked
def flipping_gap(
    model: nn.Module,
    x: Tensor,
    maps: Any,
    target: Target,
    preprocessing: Preprocessing,
    *,
    grid: int | None = None,
    fill: str = "inpaint",
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Array:
    """(N,) area under the curve of f = z_y - z_r in random orders of the patches minus that in the heatmaps' order.

    In logits of f, averaged over the flipping: above 0 where the patches that a map puts first matter more to the model
    than random ones. NaN for a map that is constant or not finite.

    x           (N, C, H, W) normalised images
    maps        (N, H, W)
    grid, fill  as for `flip_curve`; patches vanish in as many steps as the grid has rows
    seed        of the random orders, see `random_area`
    device      where a copy of the model works; None: where the model is

    Sizes are those of the model's logits: between two models compare whether the mean is above 0, not how far.
    """
    side = patch_side(x.shape[2], x.shape[3], grid)

    def area(order: Order) -> Array:
        return flip_area(model, x, order, target, preprocessing, fill=fill, device=device)

    return random_area(area, len(x), side * side, seed) - area(patch_order(maps, side))


def flip_area(
    model: nn.Module, x: Tensor, order: Order, target: Target, preprocessing: Preprocessing, **options: Any
) -> Array:
    """(N,) area under each image's flip curve in the order (N, grid^2), patches vanishing a row's worth at a time.

    options  as for `flip_curve`
    """
    steps = isqrt(order.shape[1])
    return flip_curve(model, x, order, target, preprocessing, steps=steps, **options).auc


def random_area(area: Callable[[Order], Array], n: int, cells: int, seed: int = 0) -> Array:
    """(N,) mean area over a random order of each image's cells and the same order backwards.

    The two cancel where patches add up: for a linear model and a fill that ignores other patches the mean is that over
    all orders, (f(x) + f(filled)) / 2, whatever the seed.
    """
    order = random_order(n, cells, seed)
    return (area(order) + area(order[:, ::-1].copy())) / 2

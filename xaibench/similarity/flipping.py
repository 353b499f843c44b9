"""What a model decides while its input is taken apart, patch by patch, in the order of a heatmap."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xaibench.attribution.batch_size import choose_points
from xaibench.attribution.targets import Target
from xaibench.attribution.working_copy import check_input, model_name, prepare
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, DataError, ExplanationError, unknown_name
from xaibench.models.logits import forward_logits
from xaibench.models.predict import as_device
from xaibench.precision import full_precision
from xaibench.similarity.fills import FILLS, make_fill
from xaibench.similarity.patch_order import Order, patch_of_pixels, patch_order, patch_side

__all__ = ["MEASURES", "MODES", "FlipCurve", "flip_curve"]

Array = npt.NDArray[np.float64]

MODES = {"flip": "difference", "deletion": "probability", "insertion": "probability"}
"""Mode -> what it measures unless told otherwise. "flip" and "deletion" remove patches from the image; "insertion"
starts from the filled image and puts them back."""

MEASURES = {
    "difference": "explained output z_y - z_r",
    "probability": "probability of the class y",
    "agreement": "same prediction as on the whole image",
}
"""Names of the measured outputs -> what they are."""


@dataclass(frozen=True, eq=False)
class FlipCurve:
    """Outputs of one model while patches are removed from (or put back into) N images.

    fractions    (S + 1,) share of patches removed (put back), from 0 to 1
    outputs      (N, S + 1) what was measured; a row of NaN where the order is undefined
    predictions  (N, S + 1) the predicted class, -1 where the order is undefined
    measure      a name of MEASURES
    options      mode, first, fill and grid, as given to `flip_curve`
    """

    fractions: Array
    outputs: Array
    predictions: Order
    measure: str
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        n, undefined = len(self.outputs), int((~self.defined).sum())
        return (
            f"FlipCurve({n} images, {undefined} undefined, {len(self.fractions) - 1} steps, {self.measure}, {options})"
        )

    @property
    def defined(self) -> npt.NDArray[np.bool_]:
        """(N,) which images have an order, hence a curve."""
        return np.asarray(self.predictions[:, 0] >= 0)

    @property
    def auc(self) -> Array:
        """(N,) area under each image's curve by the trapezoid rule: its mean output. NaN where undefined."""
        means = (self.outputs[:, 1:] + self.outputs[:, :-1]) / 2
        return np.asarray((means * np.diff(self.fractions)).sum(axis=1))

    @property
    def unchanged(self) -> Array:
        """(N, S + 1) 1 where the prediction is that on the whole image, else 0; NaN where undefined."""
        whole = -1 if self.options.get("mode") == "insertion" else 0
        return _agreement(self.predictions, self.predictions[:, [whole]])

    def agreement(self, other: FlipCurve) -> Array:
        """(N, S + 1) 1 where both curves' models predict the same class, else 0; NaN where either is undefined.

        Meaningful where both models saw the same images: curves of one order. Raises DataError for other shapes.
        """
        if self.predictions.shape != other.predictions.shape:
            raise DataError(
                f"curves of shapes {self.predictions.shape} and {other.predictions.shape} cannot agree: "
                "flip the same images in the same steps"
            )
        return _agreement(self.predictions, other.predictions)


@torch.no_grad()
@full_precision()
def flip_curve(
    model: nn.Module,
    x: Tensor,
    order: Any,
    target: Target,
    preprocessing: Preprocessing,
    *,
    mode: str = "flip",
    measure: str | None = None,
    first: str = "most",
    grid: int | None = None,
    fill: str = "inpaint",
    steps: int | None = None,
    points: int | None = None,
    device: torch.device | str | None = None,
) -> FlipCurve:
    """Remove patches of each image in the given order and measure what the model answers after each step.

    x        (N, C, H, W) normalised images
    order    heatmaps (N, H, W), of which `patch_order` is taken, or such an order (N, grid^2) of integers
    target   y and r of every image
    mode     "flip" or "deletion": remove patches; "insertion": put them back into the filled image
    measure  "difference": z_y - z_r; "probability": softmax of y; "agreement": 1 where the prediction is that on the
             whole image, else 0; None: the mode's own, see MODES
    first    "most" or "least" relevant patches first
    grid     patches a side; None: 28 -> 7, 32 -> 8, 224 -> 14; not needed with an order
    fill     what stands in place of removed patches, a name of similarity.fills.FILLS
    steps    after step s, round(s grid^2 / steps) patches are gone; None: one patch a step
    points   images the model sees at once; None: what fits into a budget of 1 GiB
    device   where a copy of the model works; None: where the model is

    Works on a private copy in evaluation mode. "insertion" with first="least" is "flip" with first="most" read
    backwards. Sources: Bach et al. 2015 and Samek et al. 2017 (flip), Petsiuk et al. 2018 (deletion, insertion).

    Raises ConfigError and UnknownNameError for options out of range and unknown devices, DataError for maps or orders
    that do not fit the images, ExplanationError for a model that does not answer with finite logits (N, K).
    """
    check_input(model, x, target, preprocessing)
    measure = _options(mode, measure, first, fill, points)
    orders, side = _orders(order, x, grid)
    fractions, counts = _steps(side * side, steps)
    if first == "least":
        orders = orders[:, ::-1]
    rows = torch.from_numpy(np.flatnonzero(orders[:, 0] >= 0))
    ranks = torch.from_numpy(np.argsort(orders, axis=1))
    pixels = patch_of_pixels(x.shape[2], x.shape[3], side)
    work = prepare(model, x, target, as_device(device))
    size = points or choose_points(work.image_bytes)
    filled = make_fill(fill, work.inputs(x), preprocessing)
    outputs = torch.full((len(x), len(counts)), torch.nan, dtype=torch.float64)
    predictions = torch.full((len(x), len(counts)), -1)
    total = len(rows) * len(counts)
    for start in range(0, total, size):
        place = torch.arange(start, min(start + size, total))
        image, step = rows[place // len(counts)], place % len(counts)
        later = (ranks[image] >= counts[step][:, None])[:, pixels]
        keep = (~later if mode == "insertion" else later)[:, None].to(work.device)
        asked = target.take(image)
        logits = _logits(work.model, filled(image.to(work.device), keep))
        outputs[image, step] = _measured(logits, asked, measure)
        predictions[image, step] = logits.argmax(dim=1)
    options = {"mode": mode, "first": first, "fill": fill, "grid": side}
    curve = FlipCurve(fractions, outputs.numpy(), predictions.numpy(), measure, options)
    return replace(curve, outputs=curve.unchanged) if measure == "agreement" else curve


def _options(mode: str, measure: str | None, first: str, fill: str, points: int | None) -> str:
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    measure = measure or MODES[mode]
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)
    if first not in ("most", "least"):
        raise unknown_name("start", first, ("most", "least"))
    if fill not in FILLS:
        raise unknown_name("fill", fill, FILLS)
    if points is not None and points < 1:
        raise ConfigError(f"points must be at least 1, got {points}: give none to choose it by memory")
    return measure


def _orders(order: Any, x: Tensor, grid: int | None) -> tuple[Order, int]:
    given = order.detach().cpu().numpy() if isinstance(order, Tensor) else np.asarray(order)
    fits = given.shape == (len(x), *x.shape[2:]) if given.ndim == 3 else given.ndim == 2 and len(given) == len(x)
    if not fits:
        raise DataError(
            f"heatmaps or orders of shape {given.shape} do not fit images {tuple(x.shape)}: "
            "give maps (N, H, W) or orders (N, cells)"
        )
    orders = patch_order(given, grid) if given.ndim == 3 else given
    cells = orders.shape[1]
    side = patch_side(x.shape[2], x.shape[3], isqrt(cells))
    if side * side != cells or (grid is not None and grid != side):
        raise DataError(f"an order of {cells} cells is no {grid or side}x{grid or side} grid: take it from patch_order")
    known = orders[:, 0] >= 0
    if not np.array_equal(np.sort(orders[known], axis=1), np.tile(np.arange(cells), (int(known.sum()), 1))):
        raise DataError("an order must name each cell once: take it from patch_order or random_order")
    return orders, side


def _steps(cells: int, steps: int | None) -> tuple[Array, Tensor]:
    steps = cells if steps is None else steps
    if not 1 <= steps <= cells:
        raise ConfigError(f"{cells} patches cannot be removed in {steps} steps: choose 1 to {cells}")
    counts = np.round(np.arange(steps + 1) * cells / steps).astype(np.int64)
    return counts / cells, torch.from_numpy(counts)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    logits = forward_logits(model, x)
    if not bool(torch.isfinite(logits).all()):
        raise ExplanationError(
            f"{model_name(model)} gives NaN or infinite logits for images with patches removed: choose another fill"
        )
    return logits.cpu().double()


def _measured(logits: Tensor, target: Target, measure: str) -> Tensor:
    if measure == "probability":
        return logits.softmax(dim=1).gather(1, target.label[:, None])[:, 0]
    return target.select(logits)


def _agreement(p: Order, q: Order) -> Array:
    return np.where((p >= 0) & (q >= 0), (p == q).astype(np.float64), np.nan)

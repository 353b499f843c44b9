"""How good the maps of a run are on the models that they explain: measured when those are explained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from xaibench.attribution.store.keys import curve_key
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.targets import Target
from xaibench.data.images import ImageSet
from xaibench.errors import ExplanationError
from xaibench.progress import progress
from xaibench.run.folder import Run
from xaibench.similarity.faithfulness import flip_area, random_area
from xaibench.similarity.patch_order import Order, patch_side

__all__ = ["Subject", "measure_faithfulness"]

Array = npt.NDArray[np.float64]

_FILL = "inpaint"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of a run with the question that is put to it.

    key     what the store knows it by, see `keys.model_key`
    target  y and r of every image
    """

    name: str
    model: nn.Module
    key: str
    target: Target


def measure_faithfulness(
    run: Run,
    images: ImageSet,
    orders: Mapping[Subject, Mapping[str, Order]],
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """One row a model, explainer and image: areas under the curve of z_y - z_r, `gap` = random - own.

    orders  model -> explainer -> `patch_order` of its maps (N, grid^2); -1 for a flagged or constant map, whose gap is
            NaN

    The random orders are those of the run's seed, the same for all models; see `similarity.faithfulness`. Areas are
    kept in the run's store. A model that gives no finite logits for images without patches has gaps of NaN.
    """
    x = run.preprocessing(images.images)
    inputs, n, cells = content_hash(x), len(x), patch_side(*x.shape[2:]) ** 2
    parts = []
    with progress("pixel flipping", len(orders)) as advance:
        for subject, own in orders.items():

            def area(order: Order, subject: Subject = subject) -> Array:
                return _area(run, subject, x, inputs, order, device)

            try:
                random = random_area(area, n, cells, run.config.data.seed)
                areas = {explainer: area(order) for explainer, order in own.items()}
            except ExplanationError as error:
                _log.warning("the faithfulness of the maps of %s is undefined: %s", subject.name, error)
                random = np.full(n, np.nan)
                areas = dict.fromkeys(own, random)
            about = {"model": subject.name, "image": images.keys, "random": random}
            parts += [
                pd.DataFrame(about | {"explainer": explainer, "own": values, "gap": random - values})
                for explainer, values in areas.items()
            ]
            advance(note=subject.name)
    return pd.concat(parts, ignore_index=True)[["model", "explainer", "image", "random", "own", "gap"]]


def _area(run: Run, subject: Subject, x: Tensor, inputs: str, order: Order, device: torch.device | str | None) -> Array:
    """(N,) `flip_area` of a model: from the store, or computed and kept there."""
    key = curve_key(subject.key, inputs, subject.target, run.preprocessing, torch.from_numpy(order), fill=_FILL)
    values = run.store.find_tensor(key)
    if values is None:
        area = flip_area(subject.model, x, order, subject.target, run.preprocessing, fill=_FILL, device=device)
        values = torch.from_numpy(area)
        run.store.keep_tensor(key, values)
    return values.numpy()

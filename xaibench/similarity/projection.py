"""What a model still knows when a layer is projected on a subspace of few dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ModelError
from xaibench.models.class_slice import unsliced
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import evaluating, replaced
from xaibench.models.logits import forward_logits
from xaibench.models.predict import as_device
from xaibench.subspace.bases import Basis
from xaibench.validation import checked

__all__ = ["projected_accuracy", "projected_logits"]


@checked
def projected_accuracy(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    layer: str,
    basis: Basis,
    counts: Sequence[int],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> npt.NDArray[np.float64]:
    """Accuracy of `model` with the layer projected on the first k directions of `basis`, for each k of `counts`.

    Arguments and errors are those of `projected_logits`. Source: SubDistill, arXiv 2601.05913.
    """
    logits = projected_logits(
        model, images, preprocessing, layer, basis, counts, batch_size=batch_size, device=device, on_batch=on_batch
    )
    return np.asarray((logits.argmax(2) == images.labels).double().mean(1).numpy())


@checked
def projected_logits(
    model: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    layer: str,
    basis: Basis,
    counts: Sequence[int],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Logits with a layer's output h replaced by mu + U_k U_k'(h - mu) at each location: (len(counts), N, K).

    layer     module name of the network (without its class slice)
    basis     of this layer: U and mu. All d directions give the model's own logits
    counts    numbers k of leading directions, 0 to those of `basis`; with 0 every image has the logits of mu
    device    where to compute, on a copy of the model if it lies elsewhere; None: where it lies
    on_batch  called after each forward pass with the number of images in it, counts x N in all

    The model works in evaluation mode and is left as it is. float32 on the CPU. Raises UnknownNameError for a layer
    that is not there, ModelError for one that gives no maps of the basis's channels, ConfigError for counts outside.
    """
    most = basis.vectors.shape[1]
    wrong = [k for k in counts if not 0 <= k <= most]
    if wrong or not counts:
        raise ConfigError(
            f"numbers of directions must lie in 0..{most}, those of the basis, got {wrong[0] if wrong else 'none'}"
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    home = next(model.parameters()).device
    place = as_device(device) or home
    work = model if place == home else private_copy(model).to(place)
    changes = [_Projection(layer, basis, k) for k in counts]
    parts: list[list[Tensor]] = [[] for _ in counts]
    with torch.no_grad(), evaluating(work):
        for chunk in images.images.split(batch_size):
            x = preprocessing(chunk.to(place))
            for change, part in zip(changes, parts):
                with replaced(unsliced(work), layer, change):
                    part.append(forward_logits(work, x).float().cpu())
                if not change.made:
                    raise ModelError(f"layer '{layer}' takes no part in the forward pass: choose another layer")
                if on_batch is not None:
                    on_batch(len(chunk))
    return torch.stack([torch.cat(part) for part in parts])


class _Projection:
    """h -> mu + U_k U_k'(h - mu); `made` says whether it was asked for."""

    def __init__(self, layer: str, basis: Basis, k: int) -> None:
        self.layer, self.directions, self.mean, self.made = layer, basis.vectors[:, :k], basis.mean, False

    def __call__(self, maps: Tensor) -> Tensor:
        d = len(self.mean)
        if maps.ndim != 4 or maps.shape[1] != d:
            raise ModelError(
                f"layer '{self.layer}' gives {tuple(maps.shape)}, not maps (N, {d}, H, W): make the basis of this layer"
            )
        self.made = True
        u, mean = self.directions.to(maps), self.mean.to(maps)[:, None, None]
        return mean + torch.einsum("dk,nkhw->ndhw", u, torch.einsum("dk,ndhw->nkhw", u, maps - mean))

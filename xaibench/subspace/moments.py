"""Second moments of a layer's activations and gradients, streamed over all images in one pass for all layers.

Memory is O(d^2) a layer, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xaibench.errors import CheckpointError, ConfigError, DataError, ModelError
from xaibench.files import write_atomically
from xaibench.models.layer_outputs import forward_with_layers

__all__ = ["LayerMoments", "MomentAccumulator", "collect_moments", "load_moments", "save_moments"]

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """Moments over samples and locations of one layer with d channels, in float64.

    With h the activation at one location, mu = <h>, a = h - mu and c the gradient of z_(1) - z_(2) there:

    count       number of (sample, location) pairs
    mean        mu, (d,)
    activation  C_a = <a a'>, (d, d)
    gradient    C_c = <c c'>, (d, d)
    cross       C_ac = <a c'>, (d, d)
    """

    count: int
    mean: Tensor
    activation: Tensor
    gradient: Tensor
    cross: Tensor

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def spectrum(self) -> Tensor:
        """Eigenvalues of C_a, the variances along its principal directions, largest first: (d,), none below 0."""
        return torch.linalg.eigvalsh((self.activation + self.activation.T) / 2).flip(0).clamp(min=0)

    def __repr__(self) -> str:
        return f"LayerMoments(d={self.channels}, count={self.count})"


class MomentAccumulator:
    """Sums that give `LayerMoments`, fed in batches of any size.

    Activations are shifted by the first batch's mean before they are multiplied, so that the sums lose no digits when
    the mean is large against the spread. Products are taken in the dtype of the data (at least float32) and summed in
    float64 every few thousand rows: longer single-precision sums over few channels lose 1e-4.
    """

    def __init__(self, channels: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self._shift: Tensor | None = None
        zeros = torch.zeros(channels, channels, dtype=torch.float64, device=device)
        self._a, self._c = zeros[0].clone(), zeros[0].clone()
        self._aa, self._cc, self._ac = zeros.clone(), zeros.clone(), zeros.clone()

    def update(self, activations: Tensor, gradients: Tensor) -> None:
        """Add locations: both (M, d), one row a location."""
        if activations.shape != gradients.shape or activations.ndim != 2 or activations.shape[1] != len(self._a):
            raise DataError(
                f"activations and gradients must both be (M, {len(self._a)}), "
                f"got {tuple(activations.shape)} and {tuple(gradients.shape)}"
            )
        work = torch.float64 if activations.dtype == torch.float64 else torch.float32
        if self._shift is None:
            self._shift = activations.mean(0, dtype=work)
        self.count += len(activations)
        for a, c in zip(activations.split(_CHUNK), gradients.split(_CHUNK)):
            a, c = a.to(work) - self._shift, c.to(work)
            self._a += a.sum(0).double()
            self._c += c.sum(0).double()
            self._aa += (a.T @ a).double()
            self._cc += (c.T @ c).double()
            self._ac += (a.T @ c).double()

    def result(self) -> LayerMoments:
        """The moments of everything added so far. Raises DataError for no data and for non-finite sums."""
        if self.count == 0 or self._shift is None:
            raise DataError("no images to collect moments from: give at least one batch")
        n = self.count
        residual, slope = self._a / n, self._c / n
        activation = self._aa / n - torch.outer(residual, residual)
        cross = self._ac / n - torch.outer(residual, slope)
        moments = LayerMoments(n, self._shift.double() + residual, activation, self._cc / n, cross)
        for name in ("mean", "activation", "gradient", "cross"):
            if not torch.isfinite(getattr(moments, name)).all():
                raise DataError(f"the {name} moments are not finite: the images or the teacher's weights hold NaN")
        return moments


def collect_moments(
    teacher: nn.Module,
    layers: tuple[str, ...],
    batches: Iterable[Tensor],
    *,
    locations: int | None = None,
    seed: int = 0,
    autocast: AbstractContextManager[object] | None = None,
) -> dict[str, LayerMoments]:
    """One pass over `batches` of input (B, C, H, W) -> the moments of every layer in `layers`.

    The gradient is that of z_(1) - z_(2), the two largest logits of each sample, with respect to the layer's output.

    locations  None takes every location; a number draws that many a sample, with replacement (20 in the authors' code)
    seed       seeds that draw
    autocast   a context for the forward pass (mixed precision); None runs it in the model's own precision

    The teacher must be in evaluation mode. Source: SubDistill, arXiv 2601.05913.
    """
    if teacher.training:
        raise ModelError("the teacher is in training mode: call teacher.eval() before its moments are collected")
    if locations is not None and locations < 1:
        raise ConfigError(f"locations must be at least 1, got {locations}: None takes all of them")
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, MomentAccumulator] = {}
    for x in batches:
        alone = len(x) == 1  # torch's gradient of a single image can be wrong: it gets company, which is then left out
        x = torch.cat([x, x]) if alone else x
        with torch.enable_grad(), autocast or nullcontext():
            logits, outputs = forward_with_layers(teacher, x.detach().requires_grad_(), layers)
            top = logits.float().topk(2, dim=1).values
            margin = (top[:, 0] - top[:, 1]).sum()
        gradients = torch.autograd.grad(margin, [outputs[name] for name in layers])
        for name, gradient in zip(layers, gradients):
            output = outputs[name].detach()
            if alone:
                output, gradient = output[:1], gradient[:1]
            if output.ndim != 4:
                raise ModelError(
                    f"layer '{name}' gives {tuple(output.shape)}, not maps (B, d, H, W): pair another layer"
                )
            rows = _rows(output, gradient, locations, generator)
            sums.setdefault(name, MomentAccumulator(output.shape[1], output.device)).update(*rows)
    if not sums:
        raise DataError("no images to collect moments from: give at least one batch")
    return {name: sums[name].result() for name in layers}


def save_moments(path: Path | str, moments: Mapping[str, LayerMoments]) -> Path:
    """Write the moments of several layers as one safetensors file, atomically."""
    tensors = {}
    for layer, m in moments.items():
        tensors[f"{layer}/count"] = torch.tensor(m.count)
        for field in ("mean", "activation", "gradient", "cross"):
            tensors[f"{layer}/{field}"] = getattr(m, field).cpu().contiguous()
    return write_atomically(path, lambda partial: save_file(tensors, partial))


def load_moments(path: Path | str) -> dict[str, LayerMoments]:
    """Read what `save_moments` wrote. Raises CheckpointError for a missing or damaged file."""
    grouped: dict[str, dict[str, Tensor]] = {}
    try:
        for key, value in load_file(path).items():
            layer, _, field = key.rpartition("/")
            grouped.setdefault(layer, {})[field] = value
        return {
            layer: LayerMoments(int(t["count"]), t["mean"], t["activation"], t["gradient"], t["cross"])
            for layer, t in grouped.items()
        }
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"cannot read moments from {path} ({error}): delete it to measure them again") from error


def _rows(output: Tensor, gradient: Tensor, locations: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    b, d, h, w = output.shape
    a = output.permute(0, 2, 3, 1).reshape(b, h * w, d)
    c = gradient.permute(0, 2, 3, 1).reshape(b, h * w, d)
    if locations is not None:
        index = torch.randint(h * w, (b, locations), generator=generator).to(output.device)
        index = index[:, :, None].expand(-1, -1, d)
        a, c = a.gather(1, index), c.gather(1, index)
    return a.reshape(-1, d), c.reshape(-1, d)

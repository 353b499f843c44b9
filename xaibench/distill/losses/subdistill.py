"""SubDistill's layer loss: match the teacher inside its subspace, up to a learned rotation.

Source: arXiv 2601.05913.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from xaibench.errors import ConfigError, unknown_name
from xaibench.subspace.bases import Basis

__all__ = ["CENTRINGS", "Centring", "SubspaceHead", "pool_to", "subspace_loss", "subspace_target"]

CENTRINGS = ("peer_bn", "mean", "zscore", "none")


def pool_to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool maps (B, d, H, W) down to `size` in each direction where they are larger."""
    h, w = min(maps.shape[2], size[0]), min(maps.shape[3], size[1])
    return maps if (h, w) == tuple(maps.shape[2:]) else F.adaptive_avg_pool2d(maps, (h, w))


def subspace_target(teacher: Tensor, basis: Basis, size: tuple[int, int]) -> Tensor:
    """U_k'(h_T - mu) / sqrt(energy), pooled to at most `size`: (B, d, H, W) -> (B, k, h, w).

    Divided by the root of the basis' energy, its mean squared length a location is 1.
    """
    return pool_to(basis.project(teacher), size) / basis.energy**0.5


def subspace_loss(student: Tensor, target: Tensor, rotation: Tensor, energy: float) -> Tensor:
    """mean over locations of ||R s / sqrt(energy) - t||^2 : centred s, t (B, k, h, w); R (k, k) -> (B,).

    With t from `subspace_target` it is (1/HW) sum ||R (h_S - mean) - U_k'(h_T - mu)||^2 / sum_j u_j' C_a u_j:
    about 1 for a student that knows nothing, 0 for a rotation of the projected teacher.
    """
    if student.shape != target.shape:
        raise ConfigError(f"student features {tuple(student.shape)} and target {tuple(target.shape)} must agree")
    rotated = F.conv2d(student, (rotation / energy**0.5)[:, :, None, None].to(student.dtype))
    error = rotated - target
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    return (error * error).sum((1, 2, 3)) / (target.shape[2] * target.shape[3])  # square() is slower to differentiate


class Centring(nn.Module):
    """What is done to the student's features before they are rotated.

    ``peer_bn``  training: z-score each channel over batch and locations; evaluation: subtract the running mean only
                 (what the authors' public code does, and with which the published experiments ran)
    ``mean``     training: subtract the batch mean; evaluation: the running mean (the paper's text)
    ``zscore``   z-score in both, with running statistics in evaluation
    ``none``     nothing

    Running statistics have momentum 0.1, the z-score's epsilon is 1e-5.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, kind: str = "peer_bn") -> None:
        super().__init__()
        if kind not in CENTRINGS:
            raise unknown_name("centring", kind, CENTRINGS)
        self.kind = kind
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "none":
            return h
        if self.kind == "zscore" or (self.kind == "peer_bn" and self.training):
            return F.batch_norm(h, self.mean, self.var, training=self.training, momentum=0.1, eps=1e-5)
        if self.training:
            batch_mean = h.to(self.mean.dtype).mean((0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(batch_mean, 0.1)
            return h - batch_mean[:, None, None].to(h.dtype)
        return h - self.mean[:, None, None].to(h.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, kind={self.kind!r}"


class SubspaceHead(nn.Module):
    """The learned part for one layer: centring and an orthogonal rotation of the student's k channels."""

    def __init__(self, basis: Basis, centring: str = "peer_bn") -> None:
        super().__init__()
        k = basis.vectors.shape[1]
        self.basis = basis
        self.centring = Centring(k, centring)
        self.rotation = nn.Linear(k, k, bias=False)
        parametrizations.orthogonal(self.rotation)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        """Student features (B, k, H, W) and the teacher's target (B, k, h, w) -> the loss a sample, (B,)."""
        with torch.autocast(student.device.type, enabled=False):
            rotation = self.rotation.weight
        size = (target.shape[2], target.shape[3])
        return subspace_loss(self.centring(pool_to(student, size)), target, rotation, self.basis.energy)

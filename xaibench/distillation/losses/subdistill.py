"""SubDistill's layer loss: match the teacher inside its subspace, up to a learned rotation.

Source: arXiv 2601.05913.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrizations, parametrize

from xaibench.distillation.losses.layer import LayerLoss, check_maps, squared_length
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.maps import Shape, pool_to
from xaibench.subspace.bases import Basis

__all__ = [
    "CENTRINGS",
    "MAPPINGS",
    "Centring",
    "SubspaceLoss",
    "orthogonality_penalty",
    "subspace_loss",
    "subspace_target",
]

CENTRINGS = ("peer_bn", "mean", "running", "zscore", "none")
MAPPINGS = ("rotation", "linear", "soft-singular", "soft-frobenius")


def subspace_target(teacher: Tensor, basis: Basis, size: tuple[int, int], energy: float | None = None) -> Tensor:
    """U_k'(h_T - mu) / sqrt(energy), pooled to at most `size`: (B, d, H, W) -> (B, k, h, w).

    Divided by the root of the basis' energy (the default), its mean squared length a location is 1.
    """
    return pool_to(basis.project(teacher), size) / (basis.energy if energy is None else energy) ** 0.5


def subspace_loss(student: Tensor, target: Tensor, rotation: Tensor, energy: float) -> Tensor:
    """mean over locations of ||R s / sqrt(energy) - t||^2 : centred s (B, k, h, w), t (B, m, h, w); R (m, k) -> (B,).

    With t from `subspace_target` it is (1/HW) sum ||R (h_S - mean) - U_k'(h_T - mu)||^2 / sum_j u_j' C_a u_j:
    about 1 for a student that knows nothing, 0 for a rotation of the projected teacher.
    """
    rotated = F.conv2d(student, (rotation / energy**0.5)[:, :, None, None].to(student.dtype))
    check_maps(rotated, target, "SubDistill's layer loss")
    return squared_length(rotated - target) / (target.shape[2] * target.shape[3])


def _parallel() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class Centring(nn.Module):
    """What is done to the student's features before they are rotated.

    ``peer_bn``  training: z-score each channel over batch and locations; evaluation: subtract the running mean only
                 (what the authors' public code does, and with which the published experiments ran)
    ``mean``     training: subtract the batch mean; evaluation: the running mean (the paper's text)
    ``running``  subtract the running mean in both, as a constant: no gradient passes through it. In training it first
                 takes in the batch; the first batch sets it (a later branch of the authors' code)
    ``zscore``   z-score in both, with running statistics in evaluation
    ``none``     nothing

    Running statistics have momentum 0.1, the z-score's epsilon is 1e-5. In data-parallel training the statistics are
    those of the whole batch, summed over the processes, with gradients.
    """

    mean: Tensor
    var: Tensor
    begun: Tensor

    def __init__(self, channels: int, kind: str = "peer_bn") -> None:
        super().__init__()
        if kind not in CENTRINGS:
            raise unknown_name("centring", kind, CENTRINGS)
        self.kind = kind
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        if kind == "running":
            self.register_buffer("begun", torch.tensor(False))

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "none":
            return h
        if self.kind == "running":
            if self.training:
                self._follow(h.to(self.mean.dtype))
            return h - self.mean[:, None, None].to(h.dtype)
        if self.training and _parallel():
            return self._over_processes(h)
        if self.kind == "zscore" or (self.kind == "peer_bn" and self.training):
            return F.batch_norm(h, self.mean, self.var, training=self.training, momentum=0.1, eps=1e-5)
        if self.training:
            batch_mean = h.to(self.mean.dtype).mean((0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(batch_mean, 0.1)
            return h - batch_mean[:, None, None].to(h.dtype)
        return h - self.mean[:, None, None].to(h.dtype)

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        total = torch.cat([values.sum((0, 2, 3)), values.new_tensor([values.numel() / values.shape[1]])])
        if _parallel():
            distributed.all_reduce(total)
        self.mean.lerp_(total[:-1] / total[-1], torch.where(self.begun, 0.1, 1.0).to(total.dtype))
        self.begun.fill_(True)

    def _over_processes(self, h: Tensor) -> Tensor:
        values = h.to(self.mean.dtype)
        count = _Sum.apply(values.new_tensor(values.numel() / values.shape[1]))
        mean = _Sum.apply(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        if self.kind != "mean":
            variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
            centred = centred * (variance + 1e-5).rsqrt()[:, None, None]
            with torch.no_grad():
                self.var.lerp_(variance * count / (count - 1), 0.1)
        with torch.no_grad():
            self.mean.lerp_(mean, 0.1)
        return centred.to(h.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.mean)}, kind={self.kind!r}"


def orthogonality_penalty(weight: Tensor, mapping: str) -> Tensor:
    """How far W (m, k) is from orthonormal columns: sum_i (sigma_i - 1)^2 ("soft-singular") or ||W'W - I||_F^2
    ("soft-frobenius"); a number, at least 0.
    """
    if mapping == "soft-singular":
        return (torch.linalg.svdvals(weight) - 1).square().sum()
    if mapping == "soft-frobenius":
        return (weight.T @ weight - torch.eye(weight.shape[1], device=weight.device, dtype=weight.dtype)).square().sum()
    raise unknown_name("soft orthogonality", mapping, ("soft-singular", "soft-frobenius"))


class SubspaceLoss(LayerLoss):
    """The learned part for one layer: centring and a matrix from the student's k channels to the subspace.

    basis      its m directions; m = k, or m > k where the student's channels are embedded into more dimensions
    mapping    "rotation" keeps the matrix's columns orthonormal, "linear" does not; the two "soft" ones leave that to
               `penalty`. All start from the same orthonormal columns.
    normalise  False leaves out the division by the teacher's energy
    """

    def __init__(
        self,
        basis: Basis,
        student: Shape,
        *,
        centring: str = "peer_bn",
        mapping: str = "rotation",
        normalise: bool = True,
    ) -> None:
        super().__init__()
        k, m = student[0], basis.vectors.shape[1]
        if mapping not in MAPPINGS:
            raise unknown_name("mapping", mapping, MAPPINGS)
        if k > m:
            raise ConfigError(f"{k} student channels do not fit into {m} directions: take a basis of at least {k}")
        self.basis = basis
        self.size = (student[1], student[2])
        self.energy = basis.energy if normalise else 1.0
        self.mapping = mapping
        self.centring = Centring(k, centring)
        self.rotation = nn.Linear(k, m, bias=False)
        # Householder's map, the default for a tall matrix, becomes 0 under weight decay; the exponential, the default
        # for a square one, agrees with Cayley's to second order and takes ten times as long at 256 channels.
        parametrizations.orthogonal(self.rotation, orthogonal_map="cayley")
        if mapping != "rotation":
            parametrize.remove_parametrizations(self.rotation, "weight")

    def target(self, teacher: Tensor) -> Tensor:
        return subspace_target(teacher, self.basis, self.size, self.energy)

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            rotation = self.rotation.weight
        size = (target.shape[2], target.shape[3])
        return subspace_loss(self.centring(pool_to(student, size)), target, rotation, self.energy)

    def penalty(self) -> Tensor | None:
        """`orthogonality_penalty` of a soft mapping; None for the others."""
        if not self.mapping.startswith("soft"):
            return None
        with torch.autocast(self.rotation.weight.device.type, enabled=False):
            return orthogonality_penalty(self.rotation.weight, self.mapping)
